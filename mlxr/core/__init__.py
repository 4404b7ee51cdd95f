"""The tensor core: dtypes, devices, storages, tensors, views, dispatch and the tape."""
