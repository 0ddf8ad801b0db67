"""What finished runs say. Reads run directories, never trains."""
