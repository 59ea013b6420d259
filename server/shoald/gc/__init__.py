"""What may be deleted: mark and sweep."""
