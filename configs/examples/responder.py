#!/usr/bin/env python3
"""A responder for jobs with "runner": "nats": it does tasks without being a Bistro worker.

    pip install nats-py
    python3 configs/examples/responder.py nats://127.0.0.1:4222 examples.count

and a job such as configs/examples/responder.json. Start it as often as you like: responders of one
queue group share the tasks.
"""

import asyncio
import json
import sys

import nats


async def do(task, progress, cancelled):
    """Counts to the "to" of the job's config. Returns a status line, as a process would write it."""
    for number in range(1, task["argument"]["config"].get("to", 3) + 1):
        if cancelled.is_set():
            return json.dumps({"result": "incomplete", "data": {"reached": number - 1}})
        await progress(f"{task['node']}: {number}")
        await asyncio.sleep(task["argument"]["config"].get("pause", 0.1))
    return "done"


async def main(url, subject):
    client = await nats.connect(url)

    async def on_task(message):
        task = json.loads(message.data)
        cancelled = asyncio.Event()

        async def on_cancel(_):
            cancelled.set()

        async def progress(text):
            await client.publish(task["progress"], text.encode())

        orders = await client.subscribe(task["cancel"], cb=on_cancel)
        try:
            status = await do(task, progress, cancelled)
        except Exception as error:  # whatever it was, the task is to be tried again
            status = json.dumps({"result": "error_backoff", "data": {"exception": repr(error)}})
        await orders.unsubscribe()
        await message.respond(status.encode())

    # A callback handles one message after the other: a task of its own lets several run at once.
    async def start(message):
        asyncio.create_task(on_task(message))

    await client.subscribe(subject, queue="responders", cb=start)
    print(f"answering on {subject}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
