"""`python -m rankbus.vllm doctor`."""

import sys

from rankbus.vllm.doctor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
