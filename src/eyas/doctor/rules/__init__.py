"""The rules, one module a kind. Each has `RULES: tuple[Rule, ...]`; `eyas.registry` finds it, and a third party's.

Ids: D1xx file and opset, D2xx batch and shapes, D3xx operators, D4xx numbers, D5xx inputs and outputs, D6xx tails,
D7xx quantisation.
"""
