"""Readers of label files, one format each; `eyas.dataset.open_dataset` chooses among them."""
