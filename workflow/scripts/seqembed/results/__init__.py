"""The HDF5 files of embeddings: written, sealed, read and merged."""
