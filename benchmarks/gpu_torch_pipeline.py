"""A good PyTorch pipeline for YOLOv8, as a peer for `gpu_pipeline.py`; it shares no step with eyas but the weights.

Uploads on a stream of their own, two batches in flight; letterbox by torch in fp16; the network in fp16 and
channels-last under a CUDA graph, run by eyas' interpreter of its own ONNX file (without eyas' stem and head); decode
and torchvision's batched_nms over the whole batch, one copy back.
"""

from __future__ import annotations

import time
from itertools import cycle, islice

import numpy as np
import onnx
import torch
import torchvision

from eyas.graph.precision import to_narrow
from eyas.graph.surgery import inputs_of
from eyas.letterbox import Letterbox
from eyas.torch_ops.run import Graph, Program


class TorchPipeline:
    """For one batch size and one size of frames."""

    def __init__(self, network, batch: int, shape: tuple[int, int, int]) -> None:
        card = network.card
        if card.family != "yolov8":
            raise ImportError(f"no PyTorch pipeline for {card.family}")
        self.batch, self.iou = batch, card.iou
        self.box = Letterbox.fit(shape[:2], card.input_size, card.resize)
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        to_narrow(model, "fp16")
        self.name = inputs_of(model.graph)[0].name
        self.device = torch.device("cuda", 0)
        program = Program(Graph(torch, model, self.device), batch)
        self.program = program
        self.input = torch.zeros((batch, 3, *card.input_size), device=self.device)
        self.frames = [torch.empty((batch, *shape), dtype=torch.uint8, device=self.device) for _ in range(2)]
        self.uploads, self.work = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(self.work), torch.backends.cudnn.flags(benchmark=True):
            for _ in range(3):
                program.run({self.name: self.input})
            self.work.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.work):
                (self.output,) = program.run({self.name: self.input}).values()
        self.free = [torch.cuda.Event() for _ in range(2)]

    def _start(self, frames, slot: int):
        with torch.cuda.stream(self.uploads):
            self.uploads.wait_event(self.free[slot])
            for to, frame in zip(self.frames[slot], frames, strict=True):
                to.copy_(torch.from_numpy(frame), non_blocking=True)
            return self.uploads.record_event()

    def _finish(self, slot: int, uploaded, conf: float) -> list[np.ndarray]:
        height, width = self.input.shape[2:]
        (top, left), (h, w) = self.box.offset, self.box.resized
        with torch.inference_mode(), torch.cuda.stream(self.work):
            self.work.wait_event(uploaded)
            x = self.frames[slot].permute(0, 3, 1, 2).half()
            x = torch.nn.functional.interpolate(x, (h, w), mode="bilinear", align_corners=False)
            self.free[slot].record(self.work)
            x = torch.nn.functional.pad(x, (left, width - w - left, top, height - h - top), value=114.0)
            self.input.copy_(x.flip(1) / 255)
            self.graph.replay()
            boxes, scores = self.output[:, :4], self.output[:, 4:]
            best, kind = scores.max(1)
            image, cell = torch.where(best > conf)
            cx, cy, bw, bh = boxes[image, :, cell].float().unbind(1)
            xyxy = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], 1)
            value = best[image, cell].float()
            classes = kind[image, cell]
            keep = torchvision.ops.batched_nms(xyxy, value, image * 1000 + classes, self.iou)
            scale = torch.tensor([left, top, left, top], device=self.device)
            xyxy = (xyxy[keep] - scale) / self.box.scale[0]
            columns = [image[keep, None].float(), xyxy, value[keep, None], classes[keep, None].float()]
            rows = torch.cat(columns, 1).cpu().numpy()
        return [rows[rows[:, 0] == i, 1:] for i in range(self.batch)]

    def run(self, frames, conf: float) -> list[np.ndarray]:
        """Rows x1 y1 x2 y2 score class for each of a batch of frames."""
        return self._finish(0, self._start(frames, 0), conf)

    def rate(self, frames, seconds: float) -> float:
        """Images a second."""
        source = cycle(frames)
        start, done, slot = time.perf_counter(), 0, 0
        going = self._start(list(islice(source, self.batch)), slot)
        while time.perf_counter() - start < seconds:
            following = self._start(list(islice(source, self.batch)), 1 - slot)
            self._finish(slot, going, 0.25)
            going, slot, done = following, 1 - slot, done + self.batch
        rate = done / (time.perf_counter() - start)
        self._finish(slot, going, 0.25)
        return rate

    def close(self) -> None:
        """Give the memory back."""
        self.graph.reset()
        self.frames, self.program = [], None
        torch.cuda.empty_cache()
