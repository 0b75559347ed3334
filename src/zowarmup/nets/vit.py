"""A vision transformer for small images: the paper's, by its number of parameters.

The paper calls it ViT-B/16 and counts 18,944,522 parameters, which fixes patch 4, width 512 and 6 blocks of
4 x 512 hidden units with every bias, and leaves exactly 25,088 for the patch embedding and 5,130 for a linear head:
no class token, no learned positions, no final norm with parameters. So positions here are sines and cosines, the head
reads the mean over patches (Beyer et al. 2022, arXiv:2205.01580), and the final norm has no parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zowarmup.errors import ModelError
from zowarmup.nets.checks import divides, image_shape, positive


class Attention(nn.Module):
    """Self-attention with several heads; one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Every token as a mix of all tokens."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, t, d))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and two linear layers, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """The tokens after the block."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Patches, positions, blocks, mean, head."""

    positions: Float[Tensor, "t d"]

    def __init__(
        self, channels: int, grid: tuple[int, int], classes: int, *, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.register_buffer("positions", sines_and_cosines(grid, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Logits of the classes."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))  # type: ignore[no-any-return]


def vit(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    patch: int = 4,
    width: int = 512,
    depth: int = 6,
    heads: int = 8,
) -> nn.Module:
    """A vision transformer; 18,944,522 parameters on 3 x 32 x 32 images and 10 classes, as in arXiv:2509.03503v1.

    Args:
        input_shape: channels, height, width.
        classes: width of the head.
        patch: side of a square patch, in pixels; divides height and width.
        width: of a token; a multiple of 4 and of ``heads``. It is the number of features.
        depth: blocks.
        heads: of each attention.

    Raises:
        ModelError: samples are not images, or sizes that do not divide each other.
    """
    channels, height, wide = image_shape("vit", input_shape)
    positive("vit", patch=patch, width=width, depth=depth, heads=heads)
    divides("vit", "patch", patch, height, "image's height")
    divides("vit", "patch", patch, wide, "image's width")
    divides("vit", "heads", heads, width, "width")
    if width % 4:
        raise ModelError(
            f"vit: model.args.width is {width}, expected a multiple of 4 (positions are sines and cosines)"
        )
    grid = (height // patch, wide // patch)
    return ViT(channels, grid, classes, patch=patch, width=width, depth=depth, heads=heads)


def sines_and_cosines(grid: tuple[int, int], width: int) -> Float[Tensor, "t d"]:
    """Fixed positions: a quarter of the width each for sine and cosine of row and column, at frequencies 1 to 1e-4."""
    frequencies = 1e4 ** -torch.linspace(0, 1, width // 4)
    rows = torch.arange(grid[0])[:, None] * frequencies
    columns = torch.arange(grid[1])[:, None] * frequencies
    y = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, grid[1], -1)
    x = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(grid[0], -1, -1)
    return torch.cat([y, x], dim=2).reshape(grid[0] * grid[1], width).contiguous()
