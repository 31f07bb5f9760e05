"""Plans: instructions over named values, the laws they obey, and other forms of the same thing."""
