"""Networks and codecs of Ovi: the twin backbone, the text encoder, and the codecs between files' arrays and latents."""
