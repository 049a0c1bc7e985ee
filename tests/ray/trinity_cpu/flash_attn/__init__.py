"""Stands for the package flash-attn, of which the trainer needs four functions that compute nothing
on a GPU: how padding is taken out of a batch and put back."""
