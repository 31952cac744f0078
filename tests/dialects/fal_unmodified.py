"""What fal's own client for Python gets, as it comes, as one JSON object. Arguments: application, sound."""

import json
import sys
from pathlib import Path

import fal_client

APP, SOUND = sys.argv[1:]

address = fal_client.upload_file(Path(SOUND))
told = {
    "address": address,
    "subscribed": fal_client.subscribe(APP, {"audio_url": address}),
    "ran": fal_client.run(APP, {"audio_url": address}),
    "streamed": list(fal_client.stream(APP, {"audio_url": address})),
}
print(json.dumps(told))
