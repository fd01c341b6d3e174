"""The smallest chat in the terminal: python examples/chat.py gemma-4-E2B-it-Q4_0.gguf"""

import sys

import edge_gemma

if len(sys.argv) != 2:
    sys.exit("usage: python examples/chat.py MODEL.gguf")
chat = edge_gemma.Model.load(sys.argv[1]).chat(system="Answer in one sentence.")
for line in sys.stdin:
    for event in chat.send(line.strip()):
        if event.kind == "text":
            print(event.text, end="", flush=True)
    print()
