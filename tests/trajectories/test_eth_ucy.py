"""Windows of pedestrians: brute force on a made recording, and the acceptance table of the real ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trajectories.baselines import LinearAutoregression, constant_velocity
from trajectories.data.eth_ucy import SCENES, ETHUCYDataModule, Recording, read_recordings, scene_windows, windows
from trajectories.metrics import displacement_errors, speeds

DATA = Path(os.environ.get("SCIDIFF_DATA", "missing")) / "trajectories" / "eth_ucy" / "eth_ucy.npz"
needs_data = pytest.mark.skipif(not DATA.is_file(), reason="needs trajectories/eth_ucy under $SCIDIFF_DATA")

# test agents, windows, train agents, validation agents, agents in windows with others, constant velocity, mean speed
ACCEPTANCE = {
    "eth": (364, 253, 30_307, 5_422, 181, (1.075, 2.282), 0.94),
    "hotel": (1_197, 445, 29_676, 5_203, 1_053, (0.319, 0.614), 0.46),
    "univ": (24_334, 947, 9_874, 2_800, 24_334, (0.524, 1.165), 0.54),
    "zara1": (2_356, 705, 28_577, 5_184, 2_253, (0.427, 0.952), 0.97),
    "zara2": (5_910, 998, 26_076, 4_262, 5_833, (0.324, 0.724), 0.54),
}
AUTOREGRESSION = {"eth": (1.075, 2.162), "hotel": (0.367, 0.698), "zara1": (0.475, 1.076), "zara2": (0.334, 0.752)}


def made_recording(frames=40, peds=6, seed=0):
    """Pedestrians who come, leave and skip frames; frame numbers rise by 10 with one gap."""
    rng = np.random.default_rng(seed)
    rows = [(10 * f + 70 * (f > 25), p) for f in range(frames) for p in range(peds) if rng.random() < 0.93]
    frame, ped = np.array(rows).T
    part = np.where(frame < 200, 1, 2)
    return Recording(frame, 100 + ped, rng.normal(scale=4, size=(len(rows), 2)).astype(np.float32), part)


def test_windows_by_loops():
    recording = made_recording()
    frames = sorted(set(recording.frame))
    place = {(f, p): k for k, (f, p) in enumerate(zip(recording.frame, recording.ped, strict=True))}
    wanted = []
    for start in range(len(frames) - 4):
        here = frames[start : start + 5]
        agents = [p for p in range(100, 106) if all((f, p) in place for f in here)]
        wanted += [(start, recording.xy[[place[f, p] for f in here]]) for p in agents]
    found = windows(recording, 5)
    assert len(found.pos) == len(wanted) > 50
    assert (found.pos == np.stack([pos for _, pos in wanted])).all()
    starts = np.array([start for start, _ in wanted])
    assert ((found.window[:, None] == found.window) == (starts[:, None] == starts)).all()
    assert len(windows(recording, 41).pos) == 0


def test_parts_leave_the_scene_out():
    recordings = {name: made_recording(seed=k) for k, name in enumerate(("biwi_eth", "students001", "crowds_zara03"))}
    whole = windows(recordings["biwi_eth"], 6)
    assert (scene_windows(recordings, "eth", "test", 6).pos == whole.pos).all()
    others = [r.rows(r.part == 1) for name, r in recordings.items() if name != "biwi_eth"]
    joined = scene_windows(recordings, "eth", "train", 6)
    assert (joined.pos == np.concatenate([windows(r, 6).pos for r in others])).all()
    assert len(np.unique(joined.window)) == sum(len(np.unique(windows(r, 6).window)) for r in others)
    with pytest.raises(ValueError, match="no scene 'zara'"):
        scene_windows(recordings, "zara", "test")
    with pytest.raises(ValueError, match="part must be"):
        scene_windows(recordings, "eth", "all")


@pytest.fixture
def made_file(tmp_path):
    path = tmp_path / "made.npz"
    names = {name for scene in SCENES.values() for name in scene}
    recordings = {name: made_recording(60, seed=k) for k, name in enumerate(sorted(names))}
    np.savez(path, **{f"{n}_{c}": v for n, r in recordings.items() for c, v in r._asdict().items()})
    return path


def test_neighbourhoods_by_loops(made_file):
    """The target first and at the origin when it is last observed, then the nearest agents within the radius."""
    data = ETHUCYDataModule("hotel", max_agents=3, radius=4.0, num_frames=6, cond_frames=4, path=str(made_file))
    found = scene_windows(read_recordings(made_file), "hotel", "test", 6)
    systems = data.part("test").tensors
    assert systems["node_mask"][:, 0].all()
    assert (systems["target_mask"].sum(1) == 1).all()
    assert (systems["h"][..., 0] == systems["target_mask"]).all()
    for a in range(len(found.pos)):
        company = np.flatnonzero(found.window == found.window[a])
        moved = found.pos[company] - found.pos[a, 3]
        distance = np.linalg.norm(moved[:, 3], axis=-1)
        near = [k for k in np.argsort(distance, kind="stable") if distance[k] <= 4.0][:3]
        assert systems["node_mask"][a].sum() == len(near)
        assert systems["pos"][a, : len(near)].numpy() == pytest.approx(moved[near])
        assert (systems["pos"][a, len(near) :] == 0).all()


def test_scales_of_training_only(made_file):
    data = ETHUCYDataModule("hotel", num_frames=6, cond_frames=4, path=str(made_file), scale_augmentation=0.3)
    plain = ETHUCYDataModule("hotel", num_frames=6, cond_frames=4, path=str(made_file))
    first, again, other = (next(iter(d.train_dataloader()))["pos"] for d in (data, data, plain))
    assert torch.equal(first, again)
    ratio = first.flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)
    assert ratio.min() >= 1 / 1.3 - 1e-5
    assert ratio.max() <= 1.3 + 1e-5
    assert ratio.std() > 0.05
    batches = [next(iter(d.val_dataloader()))["pos"] for d in (data, plain)]
    assert torch.equal(*batches)


def test_missing_data(tmp_path, monkeypatch):
    monkeypatch.delenv("SCIDIFF_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="SCIDIFF_DATA"):
        read_recordings()
    np.savez(tmp_path / "a.npz", x_xy=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="x_frame, x_part, x_ped"):
        read_recordings(tmp_path / "a.npz")


@needs_data
@pytest.mark.parametrize("scene", ACCEPTANCE)
def test_acceptance(scene):
    """Counts, constant velocity to the published second decimal, speed, and the linear autoregression."""
    agents, filled, train, val, company, velocity, speed = ACCEPTANCE[scene]
    recordings = read_recordings(DATA)
    found = scene_windows(recordings, scene, "test")
    counts = np.bincount(found.window)
    assert (len(found.pos), len(counts), counts[counts > 1].sum()) == (agents, filled, company)
    training = scene_windows(recordings, scene, "train").pos
    assert (len(training), len(scene_windows(recordings, scene, "val").pos)) == (train, val)
    pos = found.pos[:, None].astype(np.float64)
    scores = displacement_errors(constant_velocity(pos[:, :, :8], 12)[:, None], pos[:, :, 8:])
    assert (scores["ade_min_agent"], scores["fde_min_agent"]) == pytest.approx(velocity, abs=5.1e-4)
    assert speeds(pos, 0.4).mean() == pytest.approx(speed, abs=5.1e-3)
    if scene in AUTOREGRESSION:
        model = LinearAutoregression().fit(training[:, None].astype(np.float64), 8)
        scores = displacement_errors(model.predict(pos[:, :, :8])[:, None], pos[:, :, 8:])
        assert (scores["ade_mean"], scores["fde_mean"]) == pytest.approx(AUTOREGRESSION[scene], abs=2e-3)


def text_files(folder, recordings):
    """The published layout: every recording as text in the folder of each scene that it trains, and whole in tests."""
    for scene, own in SCENES.items():
        for name, r in recordings.items():
            rows = np.column_stack([r.frame, r.ped, r.xy])
            parts = {"test": np.ones(len(rows), bool)} if name in own else {"train": r.part == 1, "val": r.part == 2}
            for part, kept in parts.items():
                file = folder / scene / part / (f"{name}.txt" if part == "test" else f"{name}_{part}.txt")
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savetxt(file, rows[kept], delimiter="\t", fmt="%.9g")


def test_published_text_files(tmp_path):
    """The same windows as from an archive; a folder without them is refused."""
    names = [*(name for own in SCENES.values() for name in own), "crowds_zara03"]
    recordings = {name: made_recording(seed=k) for k, name in enumerate(names)}
    text_files(tmp_path / "datasets", recordings)
    found = read_recordings(tmp_path / "datasets")
    assert sorted(found) == sorted(names)
    for part in ("train", "val", "test"):
        sides = [scene_windows({name: r[name] for name in names}, "univ", part, 6) for r in (found, recordings)]
        assert len(sides[0].pos) > 0
        assert np.array_equal(sides[0].pos, sides[1].pos)
        assert np.array_equal(sides[0].window, sides[1].window)
    (tmp_path / "datasets" / "eth" / "train" / "crowds_zara02_train.txt").write_text("1\t2\t3\n")
    with pytest.raises(ValueError, match=r"rows of frame, pedestrian, x and y"):
        read_recordings(tmp_path / "datasets" / "eth" / "..")
    with pytest.raises(ValueError, match="lacks the files"):
        read_recordings(tmp_path / "datasets" / "eth")
