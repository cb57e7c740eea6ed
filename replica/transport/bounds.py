"""Every bound of the transport, by name. Times are seconds, sizes bytes unless the name says otherwise."""

from __future__ import annotations

from typing import Final

GRPC_MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What grpc accepts as one message, in either direction; a larger one would break the stream."""

FRAME_BYTES_MAX: Final = GRPC_MESSAGE_BYTES_MAX - 64 * 1024
"""What accumulates into one frame; the margin is for the frame's own fields."""

MESSAGE_OVERHEAD_BYTES: Final = 8
"""The tag and length of one message inside a frame, at most."""

MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX - MESSAGE_OVERHEAD_BYTES
"""The largest message that can be sent. A protocol that may have more to say says it in pieces."""

QUEUE_MESSAGES_MAX: Final = 16 * 1024
QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""What may wait for a peer that does not keep up. More is dropped and counted: protocols retransmit."""

LINE_MESSAGES_MAX: Final = 64 * 1024
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""What may be under way on a link that is delayed on purpose; a long fat link holds more than a queue does."""

BACKOFF_FIRST_S: Final = 0.02
BACKOFF_MAX_S: Final = 1.0
"""The pause before connecting again doubles from the first to the last, less up to a half at random."""

GREETING_TIMEOUT_S: Final = 5.0
"""For connecting, greeting and being answered. The answer may wait for a sync on the other side."""

STOP_GRACE_S: Final = 0.2
"""How long open streams may take to end when the transport stops."""

PROBE_INTERVAL_S: Final = 1.0
"""How often a link's round trip is measured; an idle link sends an empty frame for it."""

ROUND_TRIP_GAIN: Final = 1 / 8
"""The weight of a new round trip in the smoothed one (the gain of RFC 6298)."""

ROUND_TRIPS_KEPT: Final = 64
"""Round trips of a link that are kept singly, beside the smoothed one."""

MEASURE_INTERVAL_S: Final = 0.02
"""How often links are probed while somebody asks for their round trips."""

NOTICE_INTERVAL_S: Final = 0.25
"""A peer that keeps speaking of another epoch is answered, and reported, at most this often."""

KEEPALIVE_INTERVAL_S: Final = 10.0
KEEPALIVE_TIMEOUT_S: Final = 10.0
"""A connection whose other end went silent is given up after the sum of both."""

LOOKAHEAD_BYTES: Final = 4 * 1024 * 1024
"""How much of a frame may be under way before its receiver asks for more: a whole one."""

SNAPSHOT_CHUNK_BYTES: Final = 512 * 1024
SNAPSHOT_STREAMS_MAX: Final = 2
"""Snapshots that are served at once; one more is refused as busy."""

BLOCKED_POLL_S: Final = 0.05
"""How often a transfer on a link that is blocked on purpose looks whether it may go on."""

LAST_WORD_S: Final = 5.0
"""How long a learner has to take the end of its lesson."""

SNAPSHOT_STALL_S: Final = 15.0
"""A fetch that received nothing for so long is given up."""

REPLIES_MAX: Final = 64
"""Echoes and notices that wait for a peer to take them; more are dropped."""

FLUSH_TURNS_MAX: Final = 3
"""Turns of the event loop that a flush waits for links that are still writing the frame before."""

STUCK_WRITE_S: Final = 0.005
"""A frame that has been on its way to grpc's core for so long is stuck behind a peer that does not keep up."""
