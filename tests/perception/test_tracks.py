"""Faces are followed as planted: through gaps and crossings, and cropped as SyncNet's authors crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ovi.perception.tracks import BORDER, MAX_GAP, MIN_LENGTH, Track, crop, follow, grid, main_face, places


def box(x: float, y: float, side: float) -> np.ndarray:
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def boxes(*found: np.ndarray) -> np.ndarray:
    return np.stack(found) if found else np.zeros((0, 4))


def test_the_grid_has_25_pictures_a_second_each_the_nearest() -> None:
    found = grid(121, 24)
    assert len(found) == 126
    assert (found[0], found[-1]) == (0, 120)
    assert all(abs(at / 24 - tick / 25) <= 0.5 / 24 for tick, at in enumerate(found))
    assert grid(126, 25) == list(range(126))
    assert len(grid(151, 30)) == 126


def test_a_moving_face_is_one_track_and_two_faces_are_two() -> None:
    pictures = [boxes(box(100 + 2 * k, 80, 60), box(400, 90, 90)) for k in range(126)]
    first, second = follow(pictures)
    assert (first.first, first.found, second.found) == (0, 126, 126)
    np.testing.assert_allclose(first.boxes[50], box(200, 80, 60))
    assert second.side == pytest.approx(90)


def test_a_gap_is_bridged_by_a_straight_line_and_a_long_one_is_not() -> None:
    pictures = [boxes(box(100 + k / 2, 80, 60)) for k in range(126)]
    for at in range(40, 40 + MAX_GAP - 1):
        pictures[at] = boxes()
    (track,) = follow(pictures)
    assert (len(track.boxes), track.found) == (126, 126 - (MAX_GAP - 1))
    np.testing.assert_allclose(track.boxes[60], box(130, 80, 60))
    for at in range(40, 40 + MAX_GAP):
        pictures[at] = boxes()
    (late,) = follow(pictures)
    assert late.first == 40 + MAX_GAP


def test_boxes_that_hardly_overlap_are_different_faces() -> None:
    pictures = [boxes(box(100 if k % 2 else 122, 80, 60)) for k in range(126)]  # IoU 0.46
    assert [track.found for track in follow(pictures)] == [63, 63]


def test_a_short_visit_is_no_track() -> None:
    assert follow([boxes(box(9, 9, 9)) if k < MIN_LENGTH - 1 else boxes() for k in range(126)]) == []
    (track,) = follow([boxes() if k < 126 - MIN_LENGTH else boxes(box(9, 9, 9)) for k in range(126)])
    assert track.first == 126 - MIN_LENGTH


def test_each_box_belongs_to_one_track() -> None:
    rng = np.random.default_rng(0)
    pictures = [
        boxes(*(box(100 * k + rng.normal(0, 3), 50 + rng.normal(0, 3), 60) for k in range(3))) for _ in range(126)
    ]
    assert sorted(track.found for track in follow(pictures)) == [126] * 3


def test_the_most_present_face_that_is_large_enough_counts() -> None:
    def track(side: float, found: int) -> Track:
        return Track(0, np.tile(box(200, 200, side), (found, 1)), found)

    small, brief, here = track(90, 126), track(300, 60), track(150, 120)
    assert main_face([small, brief, here], 100) is here
    assert main_face([small], 100) is None
    assert main_face([brief, track(310, 60)], 100) is not brief


def test_crops_have_room_at_the_sides_and_for_the_chin() -> None:
    picture = np.arange(400 * 500, dtype=np.uint32).astype(np.uint8).reshape(400, 500)[..., None].repeat(3, axis=2)
    found = crop(picture, 250.7, 200.2, 40)
    wanted = picture[160 : 160 + 112, 194 : 194 + 112]  # rows cy-s .. cy+1.8s, columns cx-1.4s .. cx+1.4s
    np.testing.assert_array_equal(found, cv2.resize(wanted, (224, 224)))


def test_what_lies_outside_the_picture_is_grey() -> None:
    picture = np.full((100, 100, 3), 255, np.uint8)
    found = crop(picture, 10, 50, 40)
    assert tuple(found[112, 5]) == BORDER
    assert tuple(found[112, 200]) == (255, 255, 255)
    assert tuple(found[220, 200]) == BORDER


def test_places_are_medians_so_that_a_leap_of_the_detector_does_not_shake_the_crop() -> None:
    rows = np.tile(box(200, 150, 80), (60, 1))
    rows[30] = box(260, 150, 200)
    np.testing.assert_allclose(places(Track(0, rows, 60)), np.tile([200, 150, 40], (60, 1)))
