"""Files out of a running container and into it, as tar, by a process that holds nothing else.

The process joins the container's user namespace and stays in the host's mounts: ids in archives are
the container's, no id outside its range can be made, and no code or library is ever loaded from the
container (CVE-2019-14271). Every name is resolved from a descriptor of the container's root, by
openat2(2) or one component at a time, so that no link, swapped at whatever moment, leads out of it
(CVE-2018-15664). It cannot be traced, gains no privileges, and dies with who started it.
"""
