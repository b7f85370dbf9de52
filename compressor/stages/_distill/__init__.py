"""What a stage does with a teacher: options read, teacher and terms set up, results told."""
