"""The server: one process that other programs' clients use as they use the services they know.

    app.py              the application: which route belongs to which module, and what happens at start and stop
    settings.py         everything that can be set
    core.py             what the routes share: the model when it is loaded, the scheduler, answers
    security.py         who may send requests: host names, origins, the key
    bodies.py           requests: bounded bodies, checked fields
    media.py            pictures and recordings in requests
    failures.py         errors in the form of each interface
    streams.py          answers that are sent while they are made
    requests.py         the neutral request, and its way to tokens;  volatile.py: what changes with every request
    scheduler.py        the one thread that drives the engine
    job.py              one answer on its way, and the mailbox between the scheduler and a route
    prefix_cache.py     timelines that are kept for the next request;  disk_cache.py: those on disk
    ears.py             what hears: recordings and live sound
    growing.py          recordings that are sent again and again while somebody speaks
    uploads.py          files in forms
    transcriptions.py, speech.py    OpenAI's interfaces for recordings and for reading aloud
    live_sound.py       sound that comes in messages of a client
    heard.py            speech that goes into a conversation while it is spoken
    realtime.py         OpenAI's interface for speech, with realtime_config.py (what a session is told), realtime_ear.py (what
                        it hears), realtime_items.py (its conversation), realtime_early.py, realtime_response.py and
                        realtime_voice.py (answers)
    page.py             the web page
    wyoming_server.py   Home Assistant's protocol, on a port of its own, with wyoming_frames.py (events within bounds),
                        wyoming_hearing.py (speech recognition), wyoming_agent.py (conversation, whose actions are those of
                        home_intents.py) and announcing.py (zeroconf)
    openai_chat.py, openai_responses.py, openai_completions.py, ollama.py, anthropic.py, models.py, status.py
                        the interfaces, each a function `routes(core)`
    openapi.py          the description of them for programs

A route reads and checks its request, makes a `ChatRequest`, gets `Answer`s from the core and writes their events in its own
form. It never touches a session. Only the scheduler's thread does, and the threads that the engine itself arbitrates
(encoders of pictures, live speech).
"""
