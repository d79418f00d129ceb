"""Several hosts on one machine, with the means to cut, kill and heal one."""
