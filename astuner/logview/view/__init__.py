"""What is shown of records and metrics, as plain data: no files, no HTML, no colours."""
