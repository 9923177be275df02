"""The modality `vector`: lists of numbers, all of one length, such as embeddings made elsewhere."""
