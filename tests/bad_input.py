"""Bad input of every kind, and what the one line that answers it has to say."""

import json

import numpy as np
import torch
from PIL import Image

import parts
from alphabar.data.sources.digits import DigitsSource

SCHEDULES, DATA = (f"{group} takes: {', '.join(parts.choices(group))}" for group in ("schedule", "data"))
# Overrides that are answered before the command begins.
COMMAND_LINES = [
    (["schedule=cosin"], f"schedule=cosin: no such choice. Did you mean cosine? {SCHEDULES}"),
    (["schedule=staircase"], f"schedule=staircase: no such choice. {SCHEDULES}"),
    (["schedule="], f"schedule=: no choice given. {SCHEDULES}"),
    (["schedule=null"], f"schedule=null: no choice given. {SCHEDULES}"),
    (["+schedule=cosine"], "leave the + out: schedule=cosine"),
    (["-m", "schedule=cosin,linear"], f"no such choice as cosin. Did you mean cosine? {SCHEDULES}"),
    (["schedule=linear,cosine"], "schedule=linear,cosine: several values are a sweep, which needs -m"),
    (["schedule.beta_end=0.01,0.02"], "schedule.beta_end=0.01,0.02: several values are a sweep, which needs -m"),
    (["schedule.beta_end=range(1,3)"], "schedule.beta_end=range(1,3): several values are a sweep, which needs -m"),
    (["trainer.device=4"], "trainer.device=4: there is no key trainer.device. Did you mean trainer.devices?"),
    (["-m", "trainer.device=1,2"], "there is no key trainer.device. Did you mean trainer.devices?"),
    (["+trainer.device=4"], "trainer: Trainer has no argument 'device'. Did you mean 'devices'?"),
    (["++trainer.device=4"], "trainer: Trainer has no argument 'device'. Did you mean 'devices'?"),
    (["+data.batchsize=4"], "data: Digits has no argument 'batchsize'. Did you mean 'batch_size'?"),
    (["+schedule.beta_stop=0.1"], "schedule: LinearSchedule has no argument 'beta_stop'. Did you mean 'beta_start'?"),
    (["trainer.limit_val_batches=0"], "needs a +: +trainer.limit_val_batches=0"),
    (["optimiser.lr=1"], "optimiser.lr=1: there is no key optimiser.lr. Did you mean optimizer.lr?"),
    (["sead=1"], "sead=1: there is no key sead. Did you mean seed?"),
    (["+foo=1"], "+foo=1: nothing takes a key foo"),
    (["++sead=1"], "++sead=1: nothing takes a key sead. Did you mean seed?"),
    (["+shape.depth=1"], "+shape.depth=1: nothing takes a key shape.depth. shape has: channels, resolution."),
    (["+callbacks.fit=1"], "+callbacks.fit=1: nothing takes a key callbacks.fit"),
    (["lr=1e-3"], "lr=1e-3: there is no key lr. Did you mean optimizer.lr?"),
    (["~callbacks.filmm"], "~callbacks.filmm: there is no key callbacks.filmm. Did you mean callbacks.film?"),
    (["module.schedule=cosine"], "there is no key module.schedule. Did you mean schedule=cosine?"),
    (["module.denoiser.schedule=cosine"], "module.denoiser.schedule: expected Schedule, got 'cosine' (schedule=... takes:"),
    (["schedule.cosine=1"], "there is no key schedule.cosine. Did you mean schedule=cosine?"),
    (["schedule.cosine"], "schedule.cosine: the word has no value. Did you mean schedule=cosine?"),
    (["schedule.beta_end"], "schedule.beta_end: the word has no value. Did you mean schedule.beta_end=...?"),
    (["=3"], "=3: there is no key before the ="),
    (["name='a"], "name='a: the quotes do not close"),
    (["name=a(b"], "name=a(b: the value cannot be read; if it is a text, put it in quotes: 'name=\"a(b\"'"),
    (["name=a=b"], "name=a=b: the value cannot be read; if it is a text, put it in quotes: 'name=\"a=b\"'"),
    (["--seed=1"], "--seed=1: there is no such option; values are given without dashes, as key=value: seed=1"),
    (["--cfg", "everything"], "argument --cfg/-c: invalid choice: 'everything'"),
    (["hydra.run.dri=x"], "hydra.run.dri=x: there is no key hydra.run.dri. Did you mean hydra.run.dir?"),
    (["hydra/launcher=submitit_slurm"], "which is not installed: pip install hydra-submitit-launcher"),
    (["hydra/sweeper=optuna", "-m"], "which is not installed: pip install hydra-optuna-sweeper"),
    (["-m", "seed=1,2", "hydra.sweep.subdir=here"], "hydra.sweep.subdir=here: the same folder for all jobs"),
    (["-m", "seed=1,2", "hydra.sweep.subdir=/elsewhere/${hydra.job.num}"], "need a folder in that of the sweep"),
    (
        ["-m", "seed=1,2", "hydra.sweep.subdir=../${hydra.job.num}"],
        "hydra.sweep.subdir=../${hydra.job.num}: need a folder in that of the sweep",
    ),
    (["data=folder"], "data.root: missing, give data.root=..."),
    (["optimizer.lr=fast"], "optimizer.lr: expected float, got 'fast'"),
    (["schedule.beta_end="], "schedule.beta_end: expected float, got ''"),
    (["seed=x"], "seed: expected int, got 'x'"),
    (["trainer.max_steps=1.5"], "trainer.max_steps: expected int, got 1.5"),
    (["name=${nope}"], "name: Interpolation key 'nope' not found"),
    (["hydra.run.dir=/dev/null/x"], "/dev/null/x: Not a directory"),
    (["resume=nowhere"], "resume=nowhere: there is no such folder"),
    (["ema_decay=0.5"], "ema_decay=0.5: there is no key ema_decay. Did you mean ema.decay?"),
    (["ema=power", "ema.decay=0.5"], "ema.decay=0.5: there is no key ema.decay"),
    (["choices=all"], "choices=all: is filled in with the choice of each group"),
    (
        ["network=simple_unet", "learned_variance=true"],
        "nothing takes learned_variance with network=simple_unet; what does: network=dit, dit_tiny, unet, unet_cifar10, unet_light, unet_small, unet_tiny",
    ),
    (["data=folder", "data.root=", "2024"], "data.root= 2024: there is a space after the =; write data.root=2024"),
    (["name", "=x"], "name =x: there is a space before the =; write name=x"),
    (["name", "=", "x"], "name =x: there is a space before the =; write name=x"),
    (["~data"], f"~data: data is needed; {DATA}"),
    (["~trainer"], "~trainer: trainer is needed; trainer takes: "),
    (["data=null"], f"data=null: no choice given. {DATA}"),
    (["trainer.max_steps=1.5e-1"], "trainer.max_steps: expected int, got 0.15"),
    (["name=[1]", "seed=x"], "seed: expected int, got 'x'"),
    (["run_dir=here"], "run_dir=here: is filled in; the folder of a run is chosen by hydra.run.dir=here"),
]
TRAINING = [
    (["data=folder", "data.root='~nosuchuser/photos'"], ["there is no folder", "~nosuchuser/photos"]),
    (["resume='~nosuchuser/run'"], ["resume=~nosuchuser/run: there is no such folder"]),
    (["schedule=triangular"], ["schedule=triangular", "cosine", "linear", "scaled_linear", "sigmoid"]),
    (["schedule.beta_strt=1e-4"], ["schedule.beta_strt", "schedule.beta_start"]),
    (["+schedule.beta_strt=1e-4"], ["beta_strt", "beta_start"]),
    (["+trainer.device=4"], ["device", "devices"]),
    (["schedule.beta_end=high"], ["schedule.beta_end: expected float, got 'high'"]),
    (["schedule.beta_end=1.5"], ["schedule: need 0 < beta_start < beta_end < 1, got beta_start=0.0001, beta_end=1.5"]),
    (["schedule.beta_start=0.5"], ["got beta_start=0.5, beta_end=0.02"]),
    (["schedule.num_steps=0"], ["schedule: need num_steps >= 1, got num_steps=0"]),
    (["schedule.zero_terminal_snr=true"], ["Epsilon does not determine x", "choose one of: X, V, Velocity"]),
    (["schedule=straight"], ["Epsilon does not determine x", "choose one of: X, V, Velocity"]),
    (["schedule=straight", "parameterization=edm"], ["EDM does not determine x", "choose one of: X, V, Velocity"]),
    (["times=log_normal"], ["objective: LogNormalTimes", "undefined on the table of LinearSchedule", "times=uniform"]),
    (["method=edm", "objective=hybrid"], ["objective: ", "EDMSchedule is not one", "objective=denoising"]),
    (["objective=hybrid", "weighting=min_snr", "weighting.gamma=0"], ["weighting: need gamma > 0, got gamma=0"]),
    (["objective=vlb", "weighting=min_snr"], ["objective: need UniformWeighting with simple=False", "got MinSNR"]),
    (["timesteps=karras", "timesteps.sigma_min=0"], ["timesteps: need 0 < sigma_min < sigma_max, got sigma_min=0"]),
    (["objective=hybrid", "network=simple_unet"], ["objective: ", "2 output channels, this one has 1", "unet_tiny"]),
    (["method=improved_ddpm", "objective=denoising"], ["sampler: variance=learned", "choose posterior or beta"]),
    (["network.learned_variance=true"], ["objective: ", "choose objective=hybrid, or network.learned_variance=false"]),
    (["sampler=heun", "sampler.churn=10"], ["sampler: churn=10", "LinearSchedule is a table", "churn=0"]),
    (["method=flow", "sampler=ddpm"], ["sampler: need num_steps >= 1", "continuous time", "num_steps=null"]),
    (["method=flow", "timesteps=karras"], ["timesteps Karras", "inf", "timesteps.sigma_max"]),
    (["timesteps=file", "timesteps.path=nowhere.txt"], ["sampler: timesteps: path=nowhere.txt: no such file"]),
    (["timesteps=file"], ["timesteps.path"]),
    (["grid=karras"], ["there is no key grid. Did you mean timesteps=karras?"]),
    (["metric=bpd"], ["metric=bpd: nothing takes metric here", "schedule"]),
    (["+metric=bpd"], ["+metric=bpd: nothing takes metric here", "schedule"]),
    (["method=ddmp"], ["method=ddmp", "Did you mean ddpm?", "edm, flow, improved_ddpm, v"]),
    (["network.channel_multipliers=[1,2,2,2,2]"], ["network: ", "got resolution=8: need 'network.channel_multipliers=[1,2,2,2]'"]),
    (["network=dit_tiny", "network.patch_size=3"], ["network: ", "got resolution=8: need network.patch_size=4, or data.resolution=6 or 9"]),
    (["sampler.num_steps=1001"], ["sampler: need 1 <= num_steps <= 1000, the schedule's own, got num_steps=1001"]),
    (["sampler.num_steps=0"], ["sampler: need num_steps >= 1, got num_steps=0"]),
    (["callbacks.samples.num=0"], ["callbacks.samples: need", "num=0"]),
    (["data.batch_size=798"], ["798", "797", "data.batch_size"]),
    (["trainer.accelerator=gpu"], ["gpu"]),
    (["trainer.devices=0"], ["devices"]),
    (["hydra.run.dir=/proc/no/such"], ["/proc/no"]),
    (["data=torchvision", "data.name=FashionMNIST", "data.root=nowhere"], ["nowhere", "data.download=true"]),
    (["data=torchvision", "data.name=FashionNIST", "data.root=nowhere"], ["FashionNIST", "FashionMNIST"]),
    (["data=folder", "data.root=nowhere"], ["nowhere"]),
    (["data=folder"], ["data.root"]),
    (["resume=nowhere"], ["resume=nowhere", "no such folder"]),
    (["features=inception", "features.weights=nowhere.pth"], ["features: ", "nowhere.pth"]),
    (["optimizer.lr=inf"], ["optimizer.lr: need finite numbers, got inf"]),
    (["optimizer.lr=nan"], ["optimizer.lr: need finite numbers, got nan"]),
    (["optimizer.lr=-1"], ["optimizer: Invalid learning rate: -1"]),
    (["optimizer.lr=0"], ["optimizer.lr=0: nothing would be trained"]),
    (["+optimizer.maximize=true"], ["optimizer.maximize=true: "]),
    (["+optimizer.betas=[0.9,nan]"], ["optimizer.betas: need finite numbers, got [0.9, nan]"]),
    (["trainer.gradient_clip_val=-1"], ["trainer.gradient_clip_val=-1: need a norm >= 0, or null"]),
    (["network.attention_resolutions=[5]"], ["=[5]: this network has the resolutions 8, 4; need 'network.attention_resolutions=[4]', or []"]),
    (
        ["resume=auto", "name=own", "network.attention_resolutions=[5]"],
        ["=[5]: this network has the resolutions 8, 4; need 'network.attention_resolutions=[4]', or []"],
    ),
    (["schedule.beta_end=nan"], ["schedule.beta_end: need finite numbers, got nan"]),
    (["ema.decay=1"], ["ema: ", "decay"]),
    (["lr_scheduler.warmup_steps=-1"], ["lr_scheduler: need warmup_steps >= 0, got warmup_steps=-1"]),
    (["trainer.precision=16-true"], ["trainer.precision=16-true: need one of 32-true"]),
    (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps: need a number >= 1, got 0"]),
    (["trainer.max_steps=0"], ["trainer.max_steps=0: there would be nothing to train"]),
    (["+trainer.overfit_batches=0.5"], ["trainer.overfit_batches=0.5: need a whole number of batches"]),
    (["+trainer.val_check_interval=5"], ["trainer.val_check_interval=5: a run has no validation loop"]),
    (["data.num_workers=-1"], ["data: ", "num_workers"]),
    (["data.flip=maybe"], ["data.flip: expected bool or null, got 'maybe'"]),
    (["data=folder", "data.root=notes"], ["notes", ".png"]),
    (["data=folder", "data.root=good.png"], ["good.png"]),
    (["data=folder", "data.root=few", "data.resolution=0"], ["resolution"]),
    (["conditioner=text"], ["conditioner=text needs images with captions, and these data have none"]),
    (["data=folder", "data.root=few", "data.resolution=8", "conditioner=class_label", "data.batch_size=2"], ["conditioner=class_label needs images with classes"]),
    (["resume=good.png"], ["resume=good.png: is a file: give the folder of the run"]),
    (["resume=few"], ["resume=few: not the folder of a run, it has no config.yaml"]),
    (["codec=autoencoder", "codec.name=nowhere"], ["nowhere"]),
    (["features=dinov2", "features.name=nowhere"], ["nowhere"]),
    (["callbacks.checkpoints.every_n_steps=0"], ["every_n_steps"]),
    (["trainer.strategy=fsdp"], ["trainer.strategy=fsdp: need ddp"]),
    (["callbacks.nonfinite.policy=rollback", "callbacks.checkpoints.keep_last=1"], ["callbacks.nonfinite.policy=rollback: needs callbacks.checkpoints.keep_last=2"]),
    (["logger=wandb", "logger.wandb.project=a/b"], ["logger.wandb.project=a/b: "]),
]  # fmt: skip
SAMPLING = [
    (["checkpoint=nowhere.ckpt"], ["checkpoint=nowhere.ckpt: no such file"]),
    ([], ["checkpoint"]),
    (["checkpoint=cut.ckpt"], ["checkpoint=cut.ckpt: cannot be read"]),
    (["checkpoint=text.ckpt"], ["checkpoint=text.ckpt: cannot be read"]),
    (["checkpoint=empty.ckpt"], ["checkpoint=empty.ckpt: cannot be read"]),
    (["checkpoint=other.ckpt"], ["checkpoint=other.ckpt: not a checkpoint of alphabar"]),
    (["checkpoint=foreign.ckpt"], ["os.system"]),
    (["checkpoint=good.ckpt", "num=0"], ["need num >= 1", "num=0"]),
    (["checkpoint=good.ckpt", "num=many"], ["num: expected int, got 'many'"]),
    (["checkpoint=good.ckpt", "sampler.num_steps=2000"], ["sampler: need 1 <= num_steps <= 1000"]),
    (["checkpoint=good.ckpt", "weights=best"], ["weights", "ema", "raw"]),
    (["checkpoint=good.ckpt", "sampler=ddpm_learned"], ["sampler: variance=learned", "posterior or beta"]),
    (["checkpoint=good.ckpt", "sampler=euler", "sampler.churn=5"], ["sampler: churn=5", "is a table"]),
    (["checkpoint=good.ckpt", "accelerator=gpu"], ["accelerator"]),
    (["checkpoint=good.ckpt", "sampler=eular"], ["sampler=eular", "Did you mean euler?", "ddim", "ddpm"]),
    (["checkpoint=no_averages.ckpt"], ["checkpoint=no_averages.ckpt: has no averaged weights; use weights=raw"]),
    (["checkpoint=empty_averages.ckpt"], ["checkpoint=empty_averages.ckpt: it has averaged weights of 0 parameters", "use weights=raw"]),
    (["checkpoint=good.ckpt", "labels=3"], ["labels"]),
    (["checkpoint=good.ckpt", "prompt=cat"], ["prompt"]),
    (["checkpoint=good.ckpt", "prompts=nowhere.txt"], ["nowhere.txt"]),
    (["checkpoint=good.ckpt", "prompts=empty.txt"], ["empty.txt"]),
    (["checkpoint=good.ckpt", "negative=dog"], ["negative"]),
    (["checkpoint=good.ckpt", "guidance=classifier_free"], ["guidance"]),
    (["checkpoint=good.ckpt", "guidance=autoguidance", "guidance.checkpoint=nowhere.ckpt"], ["guidance.checkpoint=nowhere.ckpt: no such file"]),
    (["checkpoint=good.ckpt", "stages=[nowhere.ckpt]"], ["stages=nowhere.ckpt: no such file"]),
    (["checkpoint=good.ckpt", "task=inpaint", "images=large", "task.mask=nowhere.png"], ["nowhere.png"]),
    (["checkpoint=good.ckpt", "task=inpaint", "images=large", "task.mask=notes/a.txt"], ["a.txt"]),
    (["checkpoint=good.ckpt", "task=inpaint", "images=large", "task.mask=diagonal"], ["mask", "center"]),
    (["checkpoint=good.ckpt", "task=image_to_image", "images=nowhere"], ["images", "nowhere"]),
    (["checkpoint=good.ckpt", "task=image_to_image", "images=notes"], ["notes"]),
    (["checkpoint=good.ckpt", "task=image_to_image", "task.strengths=[2]"], ["task: need 0 < strength <= 1", "got strength=2"]),
    (["checkpoint=good.ckpt", "task=interpolate", "task.between=words"], ["task.between: expected one of images, noise, embeddings, got 'words'"]),
    (["checkpoint=good.ckpt", "task=interpolate", "task.num_frames=1"], ["num_frames"]),
    (["checkpoint=good.ckpt", "ema_decay=0.5"], ["ema_decay=0.5"]),
    (["checkpoint=good.ckpt", "ema_length=0.9"], ["ema_length"]),
    (["checkpoint=good.ckpt", "film=-1"], ["film"]),
    (["checkpoint=good.ckpt", "hydra.run.dir=few"], ["few is not empty"]),
]  # fmt: skip
EVALUATION = [
    ([], ["need checkpoint=PATH, or samples=PATH data=NAME, or data=NAME alone: got none of them"]),
    (["samples=few"], ["samples=... needs the real images beside it"]),
    (["checkpoint=good.ckpt", "samples=few"], ["need checkpoint=... or samples=..., got both"]),
    (["checkpoint=good.ckpt", "data=digits"], ["need checkpoint=... or data=..., got both"]),
    (["checkpoint=good.ckpt", "num=20", "metric=fid"], ["statistics.fid: takes 65 images of each kind in classifier features, got 20 generated"]),
    (["checkpoint=good.ckpt", "num=1"], ["need num >= 2, got num=1"]),
    (["checkpoint=good.ckpt", "num_seeds=0"], ["need num_seeds >= 1"]),
    (["checkpoint=good.ckpt", "features=none"], ["features=none: a figure needs features"]),
    (["checkpoint=good.ckpt", "statistics.fdi=null"], ["there is no key statistics.fdi. Did you mean statistics.fid?"]),
    (["samples=empty", "data=digits"], ["samples=empty: there are no images in this folder"]),
    (["samples=nowhere", "data=digits"], ["samples=nowhere: there is no such folder or file"]),
    (["samples=mixed", "data=digits"], ["need images of one size, got 1 x 8 x 8 in 0000.png and 1 x 8 x 9 in x.png"]),
    (["samples=large", "data=digits"], ["samples=large: need images of 1 x 8 x 8, as the real ones, got 1 x 16 x 16"]),
    (["samples=few", "data=digits", "metric=fid"], ["statistics.fid: takes 65 images of each kind in classifier features, got 10"]),
    (["samples=few", "data=digits", "num=11"], ["num=11: there are 10 images in samples=few"]),
    (["samples=broken.npz", "data=digits"], ["samples=broken.npz: "]),
    (["samples=floats.npz", "data=digits"], ["need an array uint8 [N, H, W, C]"]),
    (["samples=damaged", "data=digits", "metric=fid"], ["samples=damaged: cannot read 0005.png"]),
    (["data=digits", "num=1001"], ["data: it has 1000 held-out images, fewer than num=1001"]),
    (["data=digitz"], [f"data=digitz: no such choice. Did you mean digits? data takes: {', '.join(parts.choices('data'))}"]),
    (["data=folder"], ["data.root: missing, give data.root=..."]),
    (["compare", "few", "few"], ["few: there is no receipt"]),
    (["compare", "few"], ["compare: need two receipts or more"]),
    (["compare", "bad_receipt", "bad_receipt"], ["bad_receipt"]),
    (["report", "nowhere"], ["nowhere"]),
    (["report", "few"], ["few"]),
    (["metric=bpd", "checkpoint=text.ckpt"], ["checkpoint=text.ckpt: cannot be read"]),
    (["samples=pickled.npz", "data=digits"], ["samples=pickled.npz: "]),
    (["samples=good.png", "data=digits"], ["samples=good.png"]),
    (["checkpoint=good.ckpt", "batch_size=0"], ["batch_size"]),
]  # fmt: skip


def write_inputs(folder, checkpoint):
    """Fills a folder with the files and folders that the tables name."""
    good = checkpoint.read_bytes()
    for name, content in {"good": good, "cut": good[: len(good) // 2], "text": b"weights", "empty": b""}.items():
        (folder / f"{name}.ckpt").write_bytes(content)
    torch.save({"model": torch.zeros(3)}, folder / "other.ckpt")
    content = torch.load(checkpoint, weights_only=True)
    averages = content.pop("ema")
    torch.save(content, folder / "no_averages.ckpt")
    torch.save({**content, "ema": {**averages, "weights": {}}}, folder / "empty_averages.ckpt")
    content["config"]["module"]["codec"] = {"_target_": "os.system", "command": "touch hacked"}
    torch.save(content, folder / "foreign.ckpt")
    (folder / "empty").mkdir()
    (folder / "empty.txt").touch()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("no image")
    (folder / "bad_receipt").mkdir()
    (folder / "bad_receipt" / "receipt.json").write_text(json.dumps({"figures": 3}))
    write_images(folder, DigitsSource().held_out().images(range(70)))


def write_images(folder, images):
    """Writes folders and arrays of the images uint8 [70, 1, 8, 8], some of them faulty."""
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for name, kept in {"mixed": images[:3], "large": large, "few": images[:10], "damaged": images}.items():
        (folder / name).mkdir()
        for index, image in enumerate(kept):
            Image.fromarray(image[0].numpy()).save(folder / name / f"{index:04d}.png")
    Image.new("L", (9, 8)).save(folder / "mixed" / "x.png")
    Image.new("L", (8, 8)).save(folder / "good.png")
    damaged = folder / "damaged" / "0005.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    np.savez(folder / "floats.npz", images=np.zeros((5, 8, 8, 1)))
    np.savez(folder / "pickled.npz", images=np.array([{}], dtype=object))
