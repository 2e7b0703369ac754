"""Write, seal, read and merge the HDF5 files of embeddings."""
