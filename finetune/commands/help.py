"""What the command line says of itself."""

__all__ = ["HELP", "NEXT"]

HELP = """\
finetune {version}: transfer learning on images, with a result you can defend

  python -m finetune recipe=medical                   rehearse on generated pictures, offline
  python -m finetune recipe=medical data.root=DIR     train on your pictures
  python -m finetune recipe=medical data.root=DIR training.epochs=5 model.name=resnet18

Recipes and configuration
  ls [recipes | studies]  list recipes, or prepared studies
  show RECIPE             print a recipe; show study NAME a study
  cp RECIPE FILE          copy a recipe to a file of yours; then recipe=FILE
  plan KEY=VALUE ...      what would train, on which pictures, for how long; trains nothing
  lr-find KEY=VALUE ... [--from 1e-7] [--to 10] [--steps 100] [--by-depth] [--output DIR]
                          which learning rate to take: a short training at growing rates

Several runs, compared fairly: the same pictures and epochs, a rate searched for each arm
  study=NAME KEY=VALUE ...        a prepared study: freezing, backbones, learning_rates,
                          label_fraction; study.seeds=0,1,2 study.rates=0.1,1,10 study.arms=A,B
  -m KEY=A,B seed=0,1,2 ...       every combination of the listed values, with every seed
  hydra/launcher=joblib   members side by side; also submitit_local, submitit_slurm, ray
  resume STUDY            train what is missing of a study

Networks
  ls models [PATTERN]     networks: parameters, licence, whether their weights are here
  summary MODEL [image_size= num_classes= in_channels= batch_size=] [--json]
                          shapes, parameters, multiply-adds and memory, depth by depth

Pictures
  audit DIR [--labels FILE] [--output DIR] [--fix-splits FILE] [--no-near] [data.KEY=VALUE ...]
                          copies, leaks between parts, shortcuts, broken and odd pictures; writes
                          audit.json and audit.html, and a splits file that keeps copies together

Runs
  ls runs [DIR] [KEY=VALUE ...] [--sort METRIC] [--metric METRIC] [--html] [--open]
                          runs with what they reached; values may hold * and ?; --html: also as a
                          page, DIR/index.html; --open: and show it in the browser
  resume RUN              continue an interrupted run, bit by bit as if it had not stopped; of a
                          folder of folds, those that are missing
  evaluate RUN [--split val|test]
                          measure the chosen weights again, on the test part unless told
  report RUN [--open]     write report.html and figures/ again; --open: show it in the browser
  mislabeled RUN [--model NAME] [--weights W] [--folds N]
                          labels that are probably wrong: mislabeled.html and .csv in the run
  verify RUN [--twice]    whether versions, data, weights, split, settings, predictions and metrics
                          are the run's own; --twice: whether training twice gives the same bits
  evidence RUN FILE.zip   what a reviewer needs, with the CLAIM 2024 checklist
  compare RUN RUN ... [--metric NAME] [--reference RUN] [--confidence 0.95] [--output DIR] [--open]
                          which is better, and whether it is real: runs that differ only in seed are
                          one method; of a folder or study, the runs in it; writes comparison.json
                          and comparison.html; --open: show it in the browser
  compare --wandb ENTITY/PROJECT[/GROUP] [--metric NAME]
                          means and spreads over seeds of what Weights & Biases holds; no verdict

Use of a model
  predict MODEL PATH ... --output FILE [--format csv|jsonl] [--resume | --overwrite]
          [--precision fp32|bf16] [--tta flips|d4] [--batch-size N] [--workers N]
                          a row for each picture; MODEL is a run or an exported .onnx file; paths
                          are pictures, folders, patterns, CSV files
                          (--path-column NAME), or - for names on standard input
  evaluate MODEL PATH ... [--labels COLUMN] [--groups COLUMN] [--path-column NAME]
          [--output FILE.json]
                          metrics on new labelled pictures beside those of the run's test part;
                          labels are folders' names, or a column of CSV files
  export RUN FILE [--format onnx|pt2|timm] [--half] [--pictures PATH] [--overwrite]
                          the network with preparation and calibration as NAME.onnx or NAME.pt2, or
                          as a folder for timm; compared with the run before it is given out
  card RUN [--output FILE.md | DIR] [--overwrite]
                          a model card as Markdown, with metadata for the Hugging Face hub

Weights without a network
  weights ls              which are on this machine, where, under which licence
  weights fetch MODEL[.TAG] --to DIR   on a connected machine; on the other one model.weights=DIR
  weights verify DIR      hashes, tensors and architecture of such a folder

What is kept to be quicker (cached features, packed pictures, measured arithmetic)
  cache ls                what, how large, where
  cache clear [KIND ...]  delete it: features, packs, arithmetic; without KIND all of it

Every key with its default: python -m finetune keys
Exit codes: 0 done, 1 failure while running, 2 bad input, 3 a check failed, 130 interrupted
"""

NEXT = """\
Nothing to do yet. Try

  python -m finetune recipe=medical                  a rehearsal: generated pictures, a minute
  python -m finetune recipe=medical data.root=DIR    your pictures, one folder for each class
  python -m finetune --help                          everything else
"""
