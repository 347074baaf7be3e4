"""Where prompts and scenes come from, one corpus a file; see `brushwork.data.tasks.Source`."""
