"""Writes every parity fixture anew. Arguments, optional: the folder or wheel of all-MiniLM-L6-v2; the wheel of transformers 4."""

import sys

import torch

import grad_cam
import heads
import language
import modules
import training
import vision
import pretraining
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
modules.main()
if len(sys.argv) > 1:
    import minilm

    minilm.main(sys.argv[1])
else:
    print("minilm.json: left as it is (give the folder or wheel of all-MiniLM-L6-v2 to write it anew)")
if len(sys.argv) > 2:
    import scores

    scores.main(sys.argv[2])
else:
    print("scores.json: left as it is (give the wheel of transformers 4 to write it anew)")
