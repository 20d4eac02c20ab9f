"""Episodes to rows: sources read, networks asked, videos cut, everything counted and written down."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from roborl.data.relabel_rows import SPLITS, write_rows
from roborl.data.relabel_sources import DamagedEpisode, LeftOut
from roborl.data.stage_log import StageLog
from roborl.errors import RoborlError
from roborl.locks import FolderLock
from roborl.loops.relabelling.asking import Asker
from roborl.loops.relabelling.assemble import Assembler
from roborl.loops.relabelling.card import write_card
from roborl.loops.relabelling.config import REJECTS, RESULT, STAGES, RelabelConfig
from roborl.loops.relabelling.kept_sources import check_folder, keep_sources
from roborl.loops.relabelling.preparing import Prepared, ShownPictures, no_looks, nothing_left, prepare
from roborl.loops.relabelling.respondents import Dry, Respondent, open_respondents, told_names
from roborl.loops.relabelling.result import RelabelledEpisode, RelabelResult
from roborl.loops.reporting.relabel_page import write_relabel_page
from roborl.rewards.relabelling.proposals import Relabelled
from roborl.rewards.relabelling.questions import Role, Stage
from roborl.whole_files import write_whole

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 32


def relabel(
    config: RelabelConfig, *, on_episode: Callable[[int, int, int], None] = lambda done, of, calls: None
) -> RelabelResult:
    """Relabel episodes; write rows, videos, logs, card, report and ``relabel.json`` into the folder named.

    Args:
        config: What to do.
        on_episode: Told how many episodes are done, of how many, and how many calls that took.

    Raises:
        ConfigError: If no source is named, or a place to ask at is none.
        DatasetError: If a source cannot be read, nothing of it can be relabelled, or another run writes there. Also if the
            folder holds something else, or rows of other sources.
        ModelLoadError: If a checkpoint cannot be used.
        JudgeDown: If a network cannot be reached any more. What was answered is kept.
    """
    check_folder(config.out, config.source)
    episodes, left_out = prepare(config)
    config.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        respondents = open_respondents(config)
        names = told_names(respondents)
        for who in respondents.values():
            stack.callback(who.close)
        stack.callback(FolderLock(config.out, "Another relabelling writes into this folder").close)
        keep_sources(config.out, config.source)
        logs = {stage: StageLog(config.out / STAGES / f"{stage}.jsonl") for stage in Stage}
        videos = StageLog(config.out / STAGES / "assemble.jsonl")
        for each in (*logs.values(), videos):
            stack.callback(each.close)
        assembler = Assembler(config.out, videos, video_px=config.video_px, names=names, verify=config.verify)
        looks = ShownPictures(episodes)
        asker = Asker(
            respondents,
            logs,
            looks,
            max_calls=config.max_calls,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
        )
        done: dict[int, RelabelledEpisode | None] = {}
        try:
            for place, found in _each(episodes, asker, respondents):
                looks.forget(place)
                done[place] = _assembled(episodes[place], found, assembler)
                on_episode(len(done), len(episodes), asker.tally.calls.total())
        except (RoborlError, OSError):
            asker.finish()
            raise
        if damaged := sum(episode is None for episode in done.values()):
            left_out[LeftOut.DAMAGED] += damaged
        if damaged == len(episodes):
            raise nothing_left(left_out)
        result = RelabelResult(
            config=config,
            episodes=tuple(episode for _, episode in sorted(done.items()) if episode is not None),
            left_out=dict(left_out),
            names=names,
            tally=asker.tally,
            looks=assembler.looks,
        )
        _write(config, result)
        assembler.clear({(e.split, row.file_name) for e in result.episodes for row in e.rows})
    return result


def plan(config: RelabelConfig) -> dict[str, object]:
    """Return how many calls and pictures relabelling takes from here on, asking nobody and writing nothing.

    Returns:
        ``calls`` and ``pictures`` if every reply can be used at once, by stage; ``calls_at_most`` if each is rejected as
        often as may be; ``answered_before`` for what stands in the logs, or is asked for another episode.

    Raises:
        ConfigError: As :func:`relabel`.
        DatasetError: As :func:`relabel`.
        JudgeDown: If an endpoint does not tell what it serves.
    """
    check_folder(config.out, config.source)
    episodes, left_out = prepare(config)
    dry = {role: Dry(who=who) for role, who in open_respondents(config).items()}
    logs = {stage: StageLog(config.out / STAGES / f"{stage}.jsonl", dry=True) for stage in Stage}
    asker = Asker(
        dry, logs, no_looks, max_calls=0, max_tokens=config.max_tokens, temperature=config.temperature
    )
    for _ in _each(episodes, asker, dry):
        pass
    for who in dry.values():
        who.close()
    calls, tries = asker.tally.calls, config.attempts
    written = calls[Stage.WRITE]
    return {
        "episodes": len(episodes),
        "left_out": dict(left_out),
        "calls": calls.total(),
        "calls_by_stage": {str(stage): calls[stage] for stage in Stage},
        "pictures": asker.tally.pictures,
        "answered_before": asker.tally.known.total(),
        "calls_at_most": tries * (calls.total() - 2 * written) + written * tries * (1 + tries),
    }


def _assembled(one: Prepared, found: Relabelled | None, assembler: Assembler) -> RelabelledEpisode | None:
    """Return an episode with its rows; None where its pictures cannot be read, which ends no run: others are whole."""
    if found is None:
        return None
    try:
        rows = assembler.rows(one.source, one.timeline, one.split, found.rows)
    except DamagedEpisode as error:
        log.warning("an episode is left out: %s", error)
        return None
    return RelabelledEpisode(source=one.source, split=one.split, found=found, rows=tuple(rows))


def _each(
    episodes: Sequence[Prepared], asker: Asker, respondents: Mapping[Role, Respondent]
) -> Iterator[tuple[int, Relabelled | None]]:
    """Yield what came of each episode with its place, as they are done; None where its pictures cannot be read."""
    if not respondents:
        for place, episode in enumerate(episodes):
            yield place, episode.ladder().unasked()
        return
    seats = sum({who.identity: who.seats for who in respondents.values()}.values())
    begun = ((episode.name, episode.ladder().run()) for episode in episodes)
    yield from asker.run(begun, at_once=min(max(2, seats), _MOST_AT_ONCE))


def _write(config: RelabelConfig, result: RelabelResult) -> None:
    for split in SPLITS:
        write_rows(config.out / split, [row for e in result.episodes if e.split == split for row in e.rows])
    lines = [
        {"ladder": e.ladder, "source_dataset": e.source.dataset, "source_episode": e.source.episode}
        | {"split": e.split}
        | asdict(reject)
        for e in result.episodes
        for reject in e.found.rejects
    ]
    write_whole(config.out / REJECTS, "".join(json.dumps(line) + "\n" for line in lines))
    write_whole(config.out / RESULT, json.dumps(result.as_dict(), indent=2) + "\n")
    write_card(config.out, result)
    try:
        write_relabel_page(config.out, result)
    except ImportError as error:  # the rows need no page
        log.error("The report cannot be written: %s", error)
