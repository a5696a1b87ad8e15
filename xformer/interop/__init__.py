"""Hugging Face checkpoint folders in and out, without PyTorch or transformers.

`options` turns their config.json into our configuration and back, `tables` their tensors into our
parameters and back, each by a table of the family (in `families`); `tensors` reads and writes
safetensors files; `generation` reads settings of decoding; `folder` puts them together.
`tokenizers` reads their tokenizer files, old and new, `tokenizer_export` writes ours. `sentences`
reads what sentence-transformers adds.
"""
