"""Views: what is warped comes back, what was not seen is known, and gradients reach every view."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from napari_mlbseg.method.views import IDENTITY, View, inside, sample_views, seen, unwarp, warp

H, W = 40, 56
ZOOM_IN, ZOOM_OUT = (1.1, 1.4), (0.7, 0.95)
EXACT = [IDENTITY, View(flip=(-1,)), View(flip=(-2,)), View(flip=(-2, -1))]
ZOOMS = [View(1.3, (0.1, -0.2)), View(1.4), View(0.7), View(0.9), View(1.2, (-0.1, 0.1), (-1,)), View(0.8, flip=(-1,))]


def smooth(batch: int = 2, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Waves of some twenty pixels, other ones in each channel and slice, (B, C, H, W)."""
    rows, columns = torch.meshgrid(torch.arange(H, dtype=dtype), torch.arange(W, dtype=dtype), indexing="ij")
    phase = torch.arange(batch * channels, dtype=dtype).view(batch, channels, 1, 1)
    return torch.sin(2 * math.pi * rows / 20 + phase) + torch.cos(2 * math.pi * columns / 24 - 2 * phase)


@pytest.mark.parametrize("view", EXACT, ids=str)
def test_identity_and_flips_come_back_exactly(view):
    x = torch.randn(2, 3, H, W)
    assert torch.equal(unwarp(warp(x, view), view), x)


@pytest.mark.parametrize("view", EXACT[1:], ids=str)
def test_a_flip_is_a_flip(view):
    x = torch.randn(2, 3, H, W)
    assert torch.equal(warp(x, view), torch.flip(x, view.flip))


@pytest.mark.parametrize("view", ZOOMS, ids=str)
def test_zooms_come_back_within_the_error_of_interpolation(view):
    x = smooth()
    error = (unwarp(warp(x, view), view) - x).abs().amax((0, 1))
    mask = seen(view, x)
    inner = -F.max_pool2d(-mask[None].float(), 5, stride=1, padding=2)[0] > 0
    inner[:2] = inner[-2:] = inner[:, :2] = inner[:, -2:] = False
    # h^2 / 8 of both second derivatives, each at most (2 pi / 20)^2, twice; a shrunk grid is coarser
    bound = 2 * 2 * (2 * math.pi / 20) ** 2 / 8 / min(1, view.zoom) ** 2
    assert float(error[inner].max()) < bound
    assert float(error[mask].max()) < 2 * math.pi / 20, "at the border half a pixel is repeated"


@pytest.mark.parametrize("view", ZOOMS[:2], ids=str)
def test_a_zoom_shows_the_point_at_its_centre_magnified(view):
    columns = torch.linspace(-1 + 1 / W, 1 - 1 / W, W, dtype=torch.float64).expand(1, 1, H, W)
    shown = warp(columns, view)[0, 0, H // 2]
    expected = columns[0, 0, 0] / view.zoom + view.centre[0]
    torch.testing.assert_close(shown[2:-2], expected[2:-2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("view", [View(1.3, (0.1, -0.2)), View(1.4)], ids=str)
def test_a_zoom_in_has_not_seen_the_border(view):
    x = torch.zeros(1, 1, H, W)
    mask = seen(view, x)
    assert not mask[0].any()
    assert not mask[:, -1].any()
    assert mask[H // 2, W // 2]
    assert float(mask.float().mean()) == pytest.approx(1 / view.zoom**2, abs=0.08)
    assert inside(view, x).all(), "and shows nothing but the slice"


@pytest.mark.parametrize("view", [View(0.7), View(0.9)], ids=str)
def test_a_zoom_out_has_seen_all_and_shows_surroundings_too(view):
    x = torch.zeros(1, 1, H, W)
    assert seen(view, x).all()
    shown = inside(view, x)
    assert not shown[0].any()
    assert not shown[:, -1].any()
    assert shown[H // 2, W // 2]
    assert float(shown.float().mean()) == pytest.approx(view.zoom**2, abs=0.08)


def test_seen_lies_on_the_slice_and_not_on_its_mirror_image():
    view = View(1.4, (0.25, 0.0), (-1,))  # the right of the mirrored slice is the left of the slice
    columns = seen(view, torch.zeros(1, 1, H, W))[H // 2].nonzero().float().mean()
    assert columns < W / 2 - 3


@pytest.mark.parametrize("view", EXACT, ids=str)
def test_unresampled_views_see_everything(view):
    x = torch.zeros(1, 1, H, W)
    assert seen(view, x).all()
    assert inside(view, x).all()


def drawn(n: int, seed: int = 0) -> tuple[View, ...]:
    return sample_views(n, ZOOM_IN, ZOOM_OUT, torch.Generator().manual_seed(seed))


def test_views_are_drawn_by_their_generator_alone():
    torch.manual_seed(1)
    first = drawn(9)
    torch.manual_seed(2)
    assert drawn(9) == first
    assert drawn(9, seed=1) != first
    state = torch.get_rng_state()
    drawn(9)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 16])
def test_as_many_views_as_asked_for_the_shorter_list_first(n):
    assert len(drawn(n)) == n
    assert drawn(n)[: min(n, 5)] == drawn(16)[: min(n, 5)]


def test_the_order_is_identity_a_zoom_in_two_zoom_outs_a_flip():
    identity, zoomed_in, out, out_too, flipped = drawn(5)
    assert identity == IDENTITY
    assert ZOOM_IN[0] <= zoomed_in.zoom <= ZOOM_IN[1]
    assert all(ZOOM_OUT[0] <= view.zoom <= ZOOM_OUT[1] for view in (out, out_too))
    assert out != out_too
    assert flipped == View(flip=(-1,))
    assert len(set(drawn(16))) == 16, "further views are all different"


@pytest.mark.parametrize("seed", range(20))
def test_a_zoom_in_stays_within_the_slice(seed):
    zoomed_in = drawn(2, seed)[1]
    assert all(abs(c) + 1 / zoomed_in.zoom <= 1 + 1e-9 for c in zoomed_in.centre)


@pytest.mark.parametrize("view", [View(1.3, (0.1, -0.2)), View(0.8), View(flip=(-1,)), View(1.2, flip=(-1,))], ids=str)
@pytest.mark.parametrize("move", [warp, unwarp])
def test_gradients_are_right(view, move):
    x = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: move(t, view), (x,))


@pytest.mark.parametrize("view", [*EXACT, *ZOOMS], ids=str)
def test_every_slice_of_a_batch_is_its_own(view):
    x = torch.randn(3, 2, H, W)
    for move in (warp, unwarp):
        torch.testing.assert_close(move(x, view)[1:2], move(x[1:2], view), rtol=0, atol=1e-6)


def test_sides_may_differ_and_be_odd():
    x = smooth()[..., :37, :51]
    view = View(0.8)
    assert warp(x, view).shape == x.shape
    assert float((unwarp(warp(x, view), view) - x).abs().max()) < 0.2
