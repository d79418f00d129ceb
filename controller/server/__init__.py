"""What operators and agents call, who may, and what they are answered."""
