"""Who is told when a deployed run does not end well: a Prefect automation that posts one line to a webhook.

The server itself posts, so that a run whose worker died is told too. Its address is a secret and comes from the
environment (OVI_WEBHOOK); the text is `{"text": ...}`, which Slack, Mattermost and many others take as it is. Imports
prefect, and once PREFECT_API_URL is set.
Try it: `OVI_WEBHOOK=https://hooks.slack.com/services/... ovi deploy`.
"""

from __future__ import annotations

import os
from datetime import timedelta

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture

VARIABLE = "OVI_WEBHOOK"
BLOCK = "ovi-notices"
NAME = "ovi: a run did not end well"
FLOW = "ovi"  # flows/deploy.py; the flows below it say nothing of their own
STATES = ("Failed", "Crashed", "TimedOut")
TEXT = """{"text": {{ (
    "ovi run " ~ flow_run.name ~ " (" ~ deployment.name ~ "): " ~ flow_run.state.name ~ ": "
    ~ (flow_run.state.message or "no reason given") ~ " " ~ (flow_run | ui_url or "")
) | tojson }}}"""


def declare(url: str) -> None:
    """One automation on the server and one webhook, in place of what earlier calls made."""
    told = {"Content-Type": "application/json"}
    block = Webhook(method="POST", url=url, headers=told).save(BLOCK, overwrite=True)
    wanted = Automation(
        name=NAME,
        description=f"Posts to the webhook block {BLOCK}. Written by `ovi deploy`.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in STATES},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOW},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=block, payload=TEXT)],
    )
    try:
        wanted.id = Automation.read(name=NAME).id
    except ValueError:  # there is none yet
        wanted.create()
    else:
        wanted.update()


if __name__ == "__main__":
    declare(os.environ[VARIABLE])
