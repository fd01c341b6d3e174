# For the scripts beside it: a program in the background, whose output and number are in $folder.

start() { # start COMMAND...
    setsid nice -n 10 "$@" >"$folder/log" 2>&1 </dev/null &
    echo $! >"$folder/pid"
}

await() { # await COMMAND...: until it succeeds; the script fails when the program has ended, and after three minutes
    for _ in $(seq 180); do
        "$@" && return
        kill -0 "$(cat "$folder/pid")" || break
        sleep 1
    done
    tail "$folder/log" >&2
    exit 1
}

stop() {
    kill "$(cat "$folder/pid")"
    tail --pid="$(cat "$folder/pid")" -f /dev/null
}
