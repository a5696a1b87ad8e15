"""Our parameters under the names and in the layouts of PyTorch's modules."""

import numpy as np
import torch

State = dict[str, np.ndarray]


def copied_linear(into: str, linear: dict) -> State:
    """For torch.nn.Linear, whose weight is [out, in]."""
    return {f'{into}.weight': linear['kernel'].T, f'{into}.bias': linear['bias']}


def copied_norm(into: str, norm: dict) -> State:
    """For torch.nn.LayerNorm."""
    return {f'{into}.weight': norm['scale'], f'{into}.bias': norm['bias']}


def load(model: torch.nn.Module, state: State) -> torch.nn.Module:
    """The model with these weights; every weight finds its place, and every place its weight."""
    model.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in state.items()})
    return model
