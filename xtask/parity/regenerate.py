"""Writes every parity fixture anew. Argument, optional: the folder or wheel of all-MiniLM-L6-v2."""

import sys

import torch

import grad_cam
import heads
import language
import training
import vision
import pretraining
import scores
import zoo

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
vision.main()
grad_cam.main()
zoo.main()
language.main()
training.main()
pretraining.main()
heads.main()
scores.main()
if len(sys.argv) > 1:
    import minilm

    minilm.main(sys.argv[1])
else:
    print("minilm.json: left as it is (give the folder or wheel of all-MiniLM-L6-v2 to write it anew)")
