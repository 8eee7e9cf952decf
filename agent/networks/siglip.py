"""SigLIP's vision transformer (Zhai et al., arXiv 2303.15343), as LLaVA uses it: without its head.

Parameter names are transformers' own.

Shapes: B pictures, P patches, E width, N heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent.networks.vision_shape import VisionShape


def activated(x: Tensor, name: str) -> Tensor:
    return F.gelu(x, approximate="tanh" if name == "gelu_pytorch_tanh" else "none")


class Embeddings(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        size = shape.patch_size
        self.patch_embedding = nn.Conv2d(shape.num_channels, shape.hidden_size, size, size)
        self.position_embedding = nn.Embedding(shape.num_tokens, shape.hidden_size)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        patches_BPE: Tensor = self.patch_embedding(pixels_BCHW).flatten(2).transpose(1, 2)
        return patches_BPE + self.position_embedding.weight


class VisionAttention(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        size = shape.hidden_size
        self.num_heads = shape.num_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class VisionMLP(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(activated(self.fc1(x), self.activation))
        return out


class VisionBlock(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden_size, shape.norm_eps)
        self.self_attn = VisionAttention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden_size, shape.norm_eps)
        self.mlp = VisionMLP(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        mixed: Tensor = x + self.mlp(self.layer_norm2(x))
        return mixed


class Encoder(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionBlock(shape) for _ in range(shape.num_layers))


class SiglipTower(nn.Module):
    """Features of every patch."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape)
        self.post_layernorm = nn.LayerNorm(shape.hidden_size, shape.norm_eps)
        """Of the checkpoint's layout; which states it is applied to see `forward`."""

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """States [B, P, E] of the layer that the shape names."""
        x = self.embeddings(pixels_BCHW)
        for block in self.encoder.layers[: self.shape.num_layers + 1 + self.shape.feature_layer]:
            x = block(x)
        return x


class Projector(nn.Module):
    """From the tower's width to the language model's, patch by patch."""

    def __init__(self, shape: VisionShape, hidden_size: int) -> None:
        super().__init__()
        self.activation = shape.projector_activation
        bias = shape.has_projector_bias
        self.linear_1 = nn.Linear(shape.hidden_size, hidden_size, bias)
        self.linear_2 = nn.Linear(hidden_size, hidden_size, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(activated(self.linear_1(x), self.activation))
        return out


def check_pixels(shape: VisionShape, pixels: torch.Size) -> None:
    """Raises ValueError for pixels [C, H, W] that have other patches than the tower's places."""
    channels, height, width = pixels
    size = shape.patch_size
    if (
        channels != shape.num_channels
        or height % size
        or width % size
        or (height // size) * (width // size) != shape.num_tokens
    ):
        raise ValueError(
            f"pixels {tuple(pixels)} are not {shape.num_tokens} patches of {size} in "
            f"{shape.num_channels} channels"
        )
