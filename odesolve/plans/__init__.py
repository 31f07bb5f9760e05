"""Plans: instructions over named values, the laws that they obey, and other forms of a plan."""
