"""Background tasks end, also those whose library swallows a cancellation."""

from __future__ import annotations

import asyncio

from hub.tasks import end_tasks


async def test_a_task_that_swallows_its_cancellation_is_ended_all_the_same() -> None:
    swallowed: list[bool] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if len(swallowed) == 2:
                    raise
                swallowed.append(True)

    async def breaks() -> None:
        raise ValueError("its own affair")

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(breaks())]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await end_tasks(tasks, again_s=0.01)
    assert all(task.done() for task in tasks)
    assert swallowed == [True, True]


async def test_no_tasks_take_no_time() -> None:
    await end_tasks([])
