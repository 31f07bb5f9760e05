"""What other programs call arguments, and what to type here instead."""

from __future__ import annotations

from collections.abc import Iterable

# Pairs of an argument that a function may have and of what to type there: the first that fits
# counts. None stands for functions without any of these.
Advice = tuple[tuple[str | None, str], ...]

_STEPS: Advice = (("steps", "give steps="), ("nfe", "give nfe="), ("n", "give n="))
_SEED: Advice = (
    (
        "ids",
        "give seed= a whole number, and ids= with one per sample for noise that does not depend "
        "on the batch",
    ),
    ("seed", "give seed= a whole number"),
    (None, "nothing is drawn here: leave it out"),
)
_ITS_SHAPE = (
    "the samples have the shape of the noise: give that where they are drawn, as "
    "ode.sample(model, (16, 3, 32, 32))"
)
_NOISE: Advice = (
    # before noise, which is the type of the noise in functions that have a y0
    ("y0", "give y0= the first state (B, ...)"),
    ("guide", "give guide= the data (B, ...)"),
    (
        "noise",
        "give noise= a tensor of standard normal noise (B, ...), or its shape, whose first "
        "number is the batch",
    ),
    ("a", "give a= and b= the data (B, ...)"),
    ("x", "give x= a tensor (B, ...)"),
    ("solver", _ITS_SHAPE),
    ("net", _ITS_SHAPE),
    ("batch", "give batch= a whole number"),
)
_GRID: Advice = (
    (
        "grid",
        "give grid= a name such as 'karras', or the times; noise levels as "
        "ode.grids.sigmas(path, levels)",
    ),
    ("grids", "give grids= names such as 'karras'"),
    ("t", "give t= the times"),
    (
        "time_scale",
        "give path=ode.paths.Discrete(alphas_cumprod) for a network of numbered steps, or "
        "time_scale= for one of scaled times",
    ),
)
_COND: Advice = (
    ("cond", "give cond={{'{word}': ...}}, as net(x, t, **cond) takes it"),
    (None, "conditions belong to the model: give model.given({word}=...)"),
)
_CONDS: Advice = (
    ("cond", "give cond={word}, a dict such as {{'y': labels}}, as net(x, t, **cond) takes it"),
    (None, "conditions belong to the model: give model.given(**{word})"),
)
_GUIDED: Advice = (
    ("scale", "give scale="),
    (None, "guidance belongs to the model: give model.guided(scale, cond=..., uncond=...)"),
)
_UNCOND: Advice = (
    ("uncond", "give uncond={{'y': ...}}, as net(x, t, **uncond) takes it"),
    *_GUIDED[1:],
)
_SOLVER: Advice = (
    ("grid", "give solver=, and grid= for where its times lie"),
    ("solver", "give solver="),
    ("solvers", "give solvers="),
    ("path", "give path="),
)
_CALLBACK: Advice = (
    ("callback", "give callback="),
    ("after", "give after="),
    ("events", "give events=, or dense=True and look at the solution"),
    ("grid", "take ode.iterate(model, noise, ...), whose steps have x, data, t and index"),
    (None, "nothing is called back here: leave it out"),
)
_ALL_STEPS: Advice = (
    ("dense", "give all the times in t=, or dense=True"),
    ("grid", "take ode.iterate(model, noise, ...), which yields every step"),
)
_PROGRESS: Advice = (
    ("progress", "give progress=True or progress=False"),
    (None, "no bar is shown here: leave it out"),
)
_CLIP: Advice = (
    ("clip", "give clip="),
    (None, "clipping belongs to the model: give ode.Model(..., clip=1.0)"),
)
_TOLERANCE: Advice = (
    ("rtol", "give rtol= and atol="),
    ("tol", "give tol="),
    ("tolerance", "give tolerance="),
    (
        "grid",
        "a sampler has a number of steps: give steps=, or take ode.solve(model, x, t=..., "
        "rtol=..., atol=...)",
    ),
)
_STEP: Advice = (
    ("first_step", "give steps= for steps of one size, or first_step="),
    ("step", "give step="),
    *_STEPS,
)
_PREDICTS: Advice = (
    ("predicts", "give predicts="),
    (None, "what a network predicts belongs to its model: give ode.Model(net, path, predicts=...)"),
)
_RANGE: Advice = (
    (
        "grid",
        "noise levels lie on the path and its grid: give ode.paths.EDM(sigma_min=..., "
        "sigma_max=...), "
        "or grid=ode.grids.sigmas(path, levels)",
    ),
    *_GRID,
)
_PATH: Advice = (("path", "give path= such as ode.paths.VP()"), *_GRID)

_PLAN: Advice = (
    ("plan", "give plan="),
    (
        None,
        "take ode.sample(model, state=x, plan=...), which runs a plan from a state at its "
        "first time",
    ),
)
_BEGUN: Advice = (
    ("t", "give t= a time of the path"),
    (None, "take ode.sdedit(model, guide, t=...)"),
)

_COUNTED: Advice = (
    (
        "objective",
        "give cond={{'mask': mask}}, and as the objective a function such as lambda x, *, "
        "generator, cond: "
        "Matching(model)(x, mask=cond['mask'], generator=generator)",
    ),
    (
        "generator",
        "a bound or density is of all numbers of a sample: give it to losses of squares, as "
        "Matching(model)(x, mask=...)",
    ),
)

_TABLE: tuple[tuple[str, Advice], ...] = (
    (
        "callback callbacks callback_steps callback_on_step_end step_callback on_step img_callback",
        _CALLBACK,
    ),
    (
        "return_trajectory return_intermediates return_all return_all_timesteps trajectory "
        "intermediates",
        _ALL_STEPS,
    ),
    ("generator rng random_state manual_seed random_seed noise_seed", _SEED),
    (
        "noise_sampler",
        (("tree", "noise is drawn by seed= and ids=, with tree=True of one Brownian path"), *_SEED),
    ),
    (
        "num_inference_steps num_steps n_steps nfe n_step sampling_steps num_sampling_steps "
        "inference_steps n",
        _STEPS,
    ),
    ("n_timesteps timestep_respacing ddim_steps nfes max_iter n_iter sampling_timesteps", _STEPS),
    (
        "num_timesteps diffusion_steps num_train_timesteps num_diffusion_timesteps",
        (*_STEPS, _GRID[-1]),
    ),
    (
        "ddim_eta ddim_sampling_eta",
        (("grid", "give eta= to a solver that has it, such as solver='ddim' or 'dpmpp_2m_sde'"),),
    ),
    (
        "s_churn s_tmin s_tmax",
        (("grid", "give solver='heun_churn' and s_churn=, s_tmin=, s_tmax=, s_noise="),),
    ),
    ("rho", (("grid", "give grid='karras(rho=7)'"), *_GRID)),
    (
        "order solver_order",
        (("grid", "a solver's name has its order: give solver= such as 'dpmpp_3m' or 'unipc_2'"),),
    ),
    ("sigma_min sigma_max", _RANGE),
    ("device", (("net", "give net.to({word}): the state goes where the network is"),)),
    (
        "cond y c class_labels class_label labels label prompt prompts context "
        "encoder_hidden_states "
        "condition",
        _COND,
    ),
    ("conditions conditioning class_cond prompt_embeds", _COND),
    (
        "model_kwargs extra_args extra_kwargs cond_kwargs cond_dict added_cond_kwargs "
        "model_extra_args",
        _CONDS,
    ),
    ("guidance_scale guidance cfg cfg_scale cfg_strength", _GUIDED),
    ("uncond negative_prompt unconditional_conditioning null_cond uncond_conditioning", _UNCOND),
    ("unconditional_guidance_scale guidance_weight guidance_rescale cond_scale cond_fn", _GUIDED),
    ("method sampler scheduler sampler_name algorithm integrator solver_name", _SOLVER),
    (
        "sigmas timesteps t t_span tspan times ts t_eval spacing sigma schedule noise_levels "
        "timestep_spacing",
        _GRID,
    ),
    ("use_karras_sigmas use_karras karras karras_sigmas", (("grid", "give grid='karras'"),)),
    ("noise_schedule beta_schedule betas alphas_cumprod sde", _PATH),
    (
        "batch_size batch shape size num_samples n_samples x x_T x_t xT x0 x_0 x1 x_init init "
        "latents latent z",
        _NOISE,
    ),
    (
        "initial_noise init_noise sample_shape image_size noise_shape num_images "
        "num_images_per_prompt y_0 u0 z0",
        _NOISE,
    ),
    (
        "disable verbose pbar tqdm show_progress progress_bar use_tqdm disable_tqdm disable_pbar "
        "leave",
        _PROGRESS,
    ),
    (
        "clip clip_denoised clip_sample clip_x0 clamp thresholding dynamic_thresholding "
        "dynamic_threshold",
        _CLIP,
    ),
    ("rtol atol tol tolerance rel_tol abs_tol max_steps min_step eps adaptive", _TOLERANCE),
    ("dt step_size h delta_t stepsize", _STEP),
    (
        "prediction_type parameterization parametrization pred_type model_type prediction predict "
        "target",
        _PREDICTS,
    ),
    ("objective model_mean_type pred predicts", _PREDICTS),
    (
        "net network unet model_fn denoiser eps_model",
        (("net", "give net="), ("model", "give model= an ode.Model")),
    ),
    (
        "func fn fun rhs drift vector_field dynamics velocity_fn",
        (("f", "give f=, called as f(t, y)"), *_PREDICTS[1:]),
    ),
    ("diffusion g", (("g", "give g=, called as g(t, y)"),)),
    ("noise_type", (("calculus", "give noise= such as 'diagonal'"),)),
    ("sde_type", (("calculus", "give calculus="),)),
    ("bm brownian", (("tree", "give tree= True, or an ode.BrownianPath"),)),
    (
        "strength denoise t_start start_step",
        (("t", "give t= a time of the path"), (None, "take ode.sdedit(model, guide, t=...)")),
    ),
    ("plan", _PLAN),
    ("mask inpaint_mask known", (*_COUNTED, (None, "give model.inpainted(known, mask)"))),
    (
        "torch_dtype precision fp16 use_fp16 half",
        (("dtype", "give dtype="), (None, "give ode.Model(..., dtype=...)")),
    ),
    (
        "lr learning_rate weight_decay",
        (("optimiser", "it belongs to the optimiser: give optimiser='adamw(lr=1e-3)'"),),
    ),
    ("epochs num_epochs iterations", (("steps", "give steps="),)),
    (
        "gradient_accumulation_steps accumulation_steps accumulate_grad_batches grad_accum_steps "
        "grad_accum accum_steps",
        (("accumulate", "give accumulate="),),
    ),
    ("ema_decay ema_rate ema_model", (("ema", "give ema=training.EMA(network, decay)"),)),
    (
        "max_grad_norm grad_clip gradient_clip_val clip_grad_norm clip_norm max_norm",
        (("clip", "give clip="),),
    ),
    (
        "checkpoint_dir output_dir save_dir ckpt_dir resume resume_from",
        (("folder", "give folder=: a run goes on there"),),
    ),
    (
        "mixed_precision amp use_amp",
        (("accumulate", "give dtype=torch.bfloat16 or torch.float16"),),
    ),
    ("seed", (("generator", "give generator=torch.Generator().manual_seed(0)"),)),
    ("dataloader loader train_loader dataset", (("data", "give data="),)),
    ("loss_weight weighting loss_weighting loss_type", (("weight", "give weight="),)),
    ("time_distribution timestep_sampler schedule_sampler t_sampler", (("times", "give times="),)),
)
WORDS: dict[str, Advice] = {
    word.lower(): advice for words, advice in _TABLE for word in words.split()
}


def advised(word: str, takes: Iterable[str]) -> str | None:
    """What to type instead of a word of another program, in a function that takes these arguments;
    None for other words."""
    has = set(takes)
    for argument, text in WORDS.get(word.lower(), ()):
        if argument is None or argument in has:
            return text.format(word=word)
    return None
