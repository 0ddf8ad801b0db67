"""What a YAML file may say, read and checked: every mistake at once, each with file and line."""
