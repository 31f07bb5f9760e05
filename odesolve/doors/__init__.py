"""What users give: calls, words and values, looked at before anything is done with them."""
