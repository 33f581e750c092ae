"""For mergekit's Python: PyTorch's sorts without a word about equal values become stable, so that which of them stay depends on
nothing but their order. methods.py runs this text before it imports mergekit's methods, tests/golden/make_merges.py imports it."""
import torch

_sort = torch.sort
torch.sort = lambda values, dim=-1, descending=False: _sort(values, dim=dim, descending=descending, stable=True)
torch.argsort = lambda values, dim=-1, descending=False: torch.sort(values, dim, descending).indices
torch.topk = lambda values, k, largest=True: tuple(part[:k] for part in torch.sort(values, descending=largest))
