"""Files of graphs, by suffix.

``.npz`` flat arrays with all attributes (exact); ``.g6`` graph6, one graph a line, structure only; ``.graphml`` one
graph, or a folder of such files, with attributes; ``.pt`` a list of PyTorch Geometric ``Data``; ``.smi`` and ``.sdf``
molecules.
"""

from __future__ import annotations

import gzip
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree.ElementTree import ParseError

import networkx as nx
import numpy as np

from graphs.data.attributes import Attributes
from graphs.data.convert import as_graph_set, from_networkx, from_pyg, to_pyg
from graphs.data.graph_set import GraphSet
from scidiff.files import atomic_path, check_writable

__all__ = ["READABLE", "WRITABLE", "check_output", "read_graphs", "write_graphs"]

READABLE: tuple[str, ...] = (".npz", ".g6", ".graphml", ".pt", ".smi", ".sdf")
"""Suffixes that can be read, beside a folder of GraphML files."""

WRITABLE: tuple[str, ...] = READABLE
"""Suffixes that can be written; a name without suffix is a folder of GraphML files."""


def read_graphs(path: str | Path, **options: Any) -> GraphSet:
    """Read a file of graphs, or a folder of GraphML files.

    Args:
        path: The file; ``.smi`` may also end in ``.smi.gz``.
        options: Those of `graphs.data.from_networkx`: ``symmetrize``, ``remove_self_loops``, ``node_attributes``,
            ``edge_attributes``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is unknown, or the file is damaged or holds graphs that cannot be represented.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}: check the name.")
    suffix = "" if path.is_dir() else path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise ValueError(f"{path}: expected a file of graphs ending in {', '.join(READABLE)}, or a folder of GraphML.")
    try:
        return reader(path, options)
    except (ValueError, TypeError) as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def write_graphs(graphs: Any, path: str | Path) -> None:
    """Write graphs in the format of the suffix; the file appears complete or not at all.

    Args:
        graphs: A `GraphSet`, or anything `graphs.data.as_graph_set` takes.
        path: The file; a name without suffix is a new folder of GraphML files.

    Raises:
        ValueError: If the suffix is unknown or the graphs do not fit the format.
    """
    graphs, path = as_graph_set(graphs), Path(path)
    check_output(path)
    _WRITERS[path.suffix.lower()](graphs, path)


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before any work.

    Raises:
        ValueError: If the suffix is unknown.
        OSError: If the file cannot be written, or the folder exists and is no folder of GraphML files.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"output {str(path)!r} must end in {', '.join(WRITABLE)}, or be the name of a folder.")
    if path.suffix:
        check_writable(path)
    elif path.exists() and not (path.is_dir() and all(item.suffix == ".graphml" for item in path.iterdir())):
        raise FileExistsError(f"output {str(path)!r} exists and is no folder of GraphML files; choose another name.")


def _read_npz(path: Path, options: dict[str, Any]) -> GraphSet:
    graphs = GraphSet.from_npz(path)
    keep = [options.get(f"{kind}_attributes") for kind in ("node", "edge")]
    return graphs if keep == [None, None] else from_networkx(list(graphs), **options).with_split(graphs.split)


def _read_graph6(path: Path, options: dict[str, Any]) -> GraphSet:
    lines = [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    found = []
    for number, line in enumerate(lines):
        try:
            found.append(nx.from_graph6_bytes(line))
        except (nx.NetworkXError, ValueError, IndexError) as error:
            raise ValueError(f"line {number + 1} is no graph in graph6 format.") from error
    return from_networkx(found, **options)


def _read_graphml(path: Path, options: dict[str, Any]) -> GraphSet:
    files = sorted(path.glob("*.graphml")) if path.is_dir() else [path]
    if not files:
        raise ValueError("the folder holds no .graphml file.")
    found = []
    for file in files:
        try:
            graph = nx.read_graphml(file)
        except (ParseError, nx.NetworkXError, ValueError, KeyError) as error:
            raise ValueError(f"{file} is no GraphML file ({error}).") from error
        for _, data in graph.nodes(data=True):
            _unpack(data)
        for _, _, data in graph.edges(data=True):
            _unpack(data)
            data.pop("id", None)
        found.append(graph)
    return from_networkx(found, **options)


def _read_pt(path: Path, options: dict[str, Any]) -> GraphSet:
    import torch
    from torch_geometric.data import Data
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import EdgeStorage, GlobalStorage, NodeStorage

    known = [Data, DataEdgeAttr, DataTensorAttr, GlobalStorage, NodeStorage, EdgeStorage]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(f"{path} is no file of PyG Data that can be read without running code.") from error
    data = content if isinstance(content, list | tuple) else [content]
    if not all(isinstance(item, Data) for item in data):
        raise ValueError(f"{path} must hold a list of PyG Data.")
    return from_pyg(list(data), **options)


def _read_smiles(path: Path, options: dict[str, Any]) -> GraphSet:
    from graphs.data.molecules import from_smiles

    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as stream:
        lines = [line.split()[0] for line in stream if line.strip()]
    return from_smiles(lines)


def _read_sdf(path: Path, options: dict[str, Any]) -> GraphSet:
    from rdkit import Chem

    from graphs.data.molecules import from_smiles, quiet

    with quiet():
        mols = [mol for mol in Chem.SDMolSupplier(str(path)) if mol is not None]
    return from_smiles([Chem.MolToSmiles(mol) for mol in mols])


def _write_npz(graphs: GraphSet, path: Path) -> None:
    graphs.to_npz(path)


def _write_graph6(graphs: GraphSet, path: Path) -> None:
    if graphs.attributes != Attributes():
        warnings.warn("graph6 holds structures only: attributes are left out; .npz keeps them.", stacklevel=4)
    with atomic_path(path) as temporary:
        bare = graphs.without_attributes()
        temporary.write_bytes(b"".join(nx.to_graph6_bytes(graph, header=False) for graph in bare))


def _write_graphml(graphs: GraphSet, path: Path) -> None:
    if len(graphs) != 1:
        raise ValueError(
            f"{path} can hold one graph, got {len(graphs)}; give a name without suffix for a folder of GraphML files."
        )
    with atomic_path(path) as temporary:
        nx.write_graphml_xml(_packed(graphs[0]), temporary)


def _write_folder(graphs: GraphSet, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    temporary.mkdir(parents=True)
    try:
        digits = len(str(len(graphs) - 1))
        for k, graph in enumerate(graphs):
            nx.write_graphml_xml(_packed(graph), temporary / f"graph_{k:0{digits}d}.graphml")
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_pt(graphs: GraphSet, path: Path) -> None:
    import torch

    data = to_pyg(graphs)
    with atomic_path(path) as temporary:
        torch.save(data, temporary)


def _write_smiles(graphs: GraphSet, path: Path) -> None:
    from graphs.chemistry import judge

    verdicts = judge(graphs)
    lines = [f"{v.raw_smiles} graph_{k}\n" for k, v in enumerate(verdicts) if v.raw_smiles is not None]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _write_sdf(graphs: GraphSet, path: Path) -> None:
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    from graphs.chemistry import judge

    with atomic_path(path) as temporary:
        writer = Chem.SDWriter(str(temporary))
        for k, verdict in enumerate(judge(graphs)):
            if verdict.mol is not None:
                rdDepictor.Compute2DCoords(verdict.mol)
                verdict.mol.SetProp("_Name", f"graph_{k}")
                writer.write(verdict.mol)
        writer.close()


def _packed(graph: nx.Graph) -> nx.Graph:
    """Vectors as JSON text, which GraphML can hold."""
    for _, data in graph.nodes(data=True):
        data.update({key: json.dumps(value) for key, value in data.items() if isinstance(value, tuple)})
    for _, _, data in graph.edges(data=True):
        data.update({key: json.dumps(value) for key, value in data.items() if isinstance(value, tuple)})
    return graph


def _unpack(data: dict[str, Any]) -> None:
    """Inverse of `_packed`, in place."""
    for key, value in data.items():
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            try:
                data[key] = np.array(json.loads(value))
            except ValueError:
                continue


_READERS: dict[str, Callable[[Path, dict[str, Any]], GraphSet]] = {
    "": _read_graphml,
    ".npz": _read_npz,
    ".g6": _read_graph6,
    ".graphml": _read_graphml,
    ".pt": _read_pt,
    ".smi": _read_smiles,
    ".sdf": _read_sdf,
}
_WRITERS: dict[str, Callable[[GraphSet, Path], None]] = {
    "": _write_folder,
    ".npz": _write_npz,
    ".g6": _write_graph6,
    ".graphml": _write_graphml,
    ".pt": _write_pt,
    ".smi": _write_smiles,
    ".sdf": _write_sdf,
}
