"""What members decide about what is under way: pause and go on, call off, hurry."""
