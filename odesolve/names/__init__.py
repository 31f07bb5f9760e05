"""What samplers and schedules of noise levels are called elsewhere, and how their levels are
placed."""
