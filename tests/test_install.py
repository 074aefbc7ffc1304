"""What `make` says before pip fetches anything."""

from __future__ import annotations

from pathlib import Path

from install import CUDA_ADVICE, size_of, summary


def test_the_summary_names_the_number_the_sum_and_the_largest() -> None:
    files = [("torch", "t"), ("sympy", "s"), ("idna", "i"), ("six", "x")]
    assert summary(files, [190_000_000, 6_000_000, 70_000, 11_000]) == (
        "  4 packages, 196 MB: torch 190 MB, sympy 6 MB, idna 0 MB, ..."
    )


def test_what_cuda_would_fetch_comes_with_advice_and_a_build_for_cpus_does_not() -> None:
    files = [("torch", "t"), ("nvidia-cublas", "c")]
    assert CUDA_ADVICE in summary(files, [900_000_000, 700_000_000])
    assert CUDA_ADVICE in summary(files, [900_000_000, None])
    assert "and 1 of unknown size" in summary(files, [900_000_000, None])
    assert CUDA_ADVICE not in summary([("torch", "t")], [2_000_000_000])


def test_a_size_comes_from_the_disk_or_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "a wheel").write_bytes(b"123")
    assert size_of((tmp_path / "a wheel").as_uri()) == 3
    assert size_of(tmp_path.as_uri()) == 0  # the checkout itself: nothing is fetched
    assert size_of("nonsense://nowhere") is None
