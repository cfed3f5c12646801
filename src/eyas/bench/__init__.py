"""What a model costs on this machine: engine alone, stage by stage, and from request to result under load.

`inputs` makes the pictures, `load` the two kinds of load, `measure` says what is measured in which order, `machine`
what it was measured on; `report`, `tables` and `plots` say it. The command is `eyas.cli.bench`.
"""
