const SEARCH = [
{
"file": "index.html",
"title": "Overview",
"group": "Results",
"parts": []
},
{
"file": "tables.html",
"title": "Tables",
"group": "Results",
"parts": [
[
"image_auroc",
"Image AUROC"
],
[
"pixel_auroc",
"Pixel AUROC"
],
[
"gain",
"Gain over plain CLIP"
],
[
"where",
"Where MVFA helps and where it does not"
],
[
"baselines",
"All baselines, image AUROC"
],
[
"baselines_pixel",
"All baselines, pixel AUROC"
],
[
"significance",
"Is the difference chance?"
],
[
"draws",
"Spread over support draws"
],
[
"ranks",
"Ranks over data sets"
],
[
"operating",
"Operating point"
],
[
"more_metrics",
"More metrics"
],
[
"failures",
"Worst misses and false alarms"
],
[
"data",
"The test images"
],
[
"published",
"PUBLISHED figures, not measured here"
]
]
},
{
"file": "gallery.html",
"title": "Heat-map gallery",
"group": "Results",
"parts": []
},
{
"file": "compare.html",
"title": "Comparison",
"group": "Results",
"parts": [
[
"in-plain-words",
"In plain words"
],
[
"what-these-figures-do-not-show",
"What these figures do not show"
],
[
"the-test-images",
"The test images"
],
[
"image-auroc",
"Image AUROC"
],
[
"pixel-auroc",
"Pixel AUROC"
],
[
"gain-over-each-plain-reading",
"Gain over each plain reading"
],
[
"where-it-helps-and-where-it-does-not",
"Where it helps and where it does not"
],
[
"all-baselines",
"All baselines"
],
[
"image-auroc-2",
"image AUROC"
],
[
"pixel-auroc-2",
"pixel AUROC"
],
[
"is-the-difference-chance",
"Is the difference chance?"
],
[
"how-much-do-the-support-images-matter",
"How much do the support images matter?"
],
[
"ranks-over-data-sets",
"Ranks over data sets"
],
[
"operating-point",
"Operating point"
],
[
"more-metrics",
"More metrics"
],
[
"what-goes-wrong",
"What goes wrong"
],
[
"what-the-protocol-is-worth",
"What the protocol is worth"
],
[
"published-figures",
"Published figures"
],
[
"roc-curves",
"ROC curves"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"brain",
"Brain"
],
[
"liver",
"Liver"
],
[
"retina-resc",
"Retina RESC"
],
[
"retina-oct2017",
"Retina OCT2017"
],
[
"chest",
"Chest"
],
[
"histopathology",
"Histopathology"
]
]
},
{
"file": "ablations.html",
"title": "Ablations",
"group": "Results",
"parts": [
[
"in-plain-words",
"In plain words"
],
[
"question-by-question",
"Question by question"
],
[
"does-it-take-several-levels",
"Does it take several levels?"
],
[
"adapters-or-projectors",
"Adapters or projectors?"
],
[
"how-much-of-a-token-may-the-adapters-replace",
"How much of a token may the adapters replace?"
],
[
"which-sentences-does-it-take",
"Which sentences does it take?"
],
[
"what-is-each-branch-worth-alone",
"What is each branch worth alone?"
],
[
"how-much-weight-should-the-memory-branch-have",
"How much weight should the memory branch have?"
],
[
"how-many-support-images-does-it-take",
"How many support images does it take?"
],
[
"how-long-should-it-be-trained",
"How long should it be trained?"
],
[
"gelu-or-quickgelu",
"GELU or QuickGELU?"
],
[
"does-clip-s-input-normalisation-matter",
"Does CLIP's input normalisation matter?"
]
]
},
{
"file": "evaluate-Brain.html",
"title": "Brain",
"group": "Data sets",
"parts": [
[
"thresholds-before-the-test-split-is-read",
"Thresholds, before the test split is read"
],
[
"verdicts",
"Verdicts"
],
[
"figures-of-merit",
"Figures of merit"
],
[
"roc-curves",
"ROC curves"
],
[
"scores-and-the-threshold",
"Scores and the threshold"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"what-goes-wrong",
"What goes wrong"
]
]
},
{
"file": "evaluate-Liver.html",
"title": "Liver",
"group": "Data sets",
"parts": [
[
"thresholds-before-the-test-split-is-read",
"Thresholds, before the test split is read"
],
[
"verdicts",
"Verdicts"
],
[
"figures-of-merit",
"Figures of merit"
],
[
"roc-curves",
"ROC curves"
],
[
"scores-and-the-threshold",
"Scores and the threshold"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"what-goes-wrong",
"What goes wrong"
]
]
},
{
"file": "evaluate-Retina_RESC.html",
"title": "Retina RESC",
"group": "Data sets",
"parts": [
[
"thresholds-before-the-test-split-is-read",
"Thresholds, before the test split is read"
],
[
"verdicts",
"Verdicts"
],
[
"figures-of-merit",
"Figures of merit"
],
[
"roc-curves",
"ROC curves"
],
[
"scores-and-the-threshold",
"Scores and the threshold"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"what-goes-wrong",
"What goes wrong"
]
]
},
{
"file": "evaluate-Retina_OCT2017.html",
"title": "Retina OCT2017",
"group": "Data sets",
"parts": [
[
"thresholds-before-the-test-split-is-read",
"Thresholds, before the test split is read"
],
[
"verdicts",
"Verdicts"
],
[
"figures-of-merit",
"Figures of merit"
],
[
"roc-curves",
"ROC curves"
],
[
"scores-and-the-threshold",
"Scores and the threshold"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"what-goes-wrong",
"What goes wrong"
]
]
},
{
"file": "evaluate-Chest.html",
"title": "Chest",
"group": "Data sets",
"parts": [
[
"thresholds-before-the-test-split-is-read",
"Thresholds, before the test split is read"
],
[
"verdicts",
"Verdicts"
],
[
"figures-of-merit",
"Figures of merit"
],
[
"roc-curves",
"ROC curves"
],
[
"scores-and-the-threshold",
"Scores and the threshold"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"what-goes-wrong",
"What goes wrong"
]
]
},
{
"file": "evaluate-Histopathology.html",
"title": "Histopathology",
"group": "Data sets",
"parts": [
[
"thresholds-before-the-test-split-is-read",
"Thresholds, before the test split is read"
],
[
"verdicts",
"Verdicts"
],
[
"figures-of-merit",
"Figures of merit"
],
[
"roc-curves",
"ROC curves"
],
[
"scores-and-the-threshold",
"Scores and the threshold"
],
[
"where-the-methods-look",
"Where the methods look"
],
[
"what-goes-wrong",
"What goes wrong"
]
]
},
{
"file": "train-Brain-zero-sound.html",
"title": "Brain, zero-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Brain-4-shot-sound.html",
"title": "Brain, 4-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Liver-zero-sound.html",
"title": "Liver, zero-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Liver-4-shot-sound.html",
"title": "Liver, 4-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Retina_RESC-zero-sound.html",
"title": "Retina RESC, zero-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Retina_RESC-4-shot-sound.html",
"title": "Retina RESC, 4-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Retina_OCT2017-zero-sound.html",
"title": "Retina OCT2017, zero-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Retina_OCT2017-4-shot-sound.html",
"title": "Retina OCT2017, 4-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Chest-zero-sound.html",
"title": "Chest, zero-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Chest-4-shot-sound.html",
"title": "Chest, 4-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Histopathology-zero-sound.html",
"title": "Histopathology, zero-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "train-Histopathology-4-shot-sound.html",
"title": "Histopathology, 4-shot (sound)",
"group": "Runs",
"parts": [
[
"what-the-language-side-says",
"What the language side says"
],
[
"what-the-adapters-may-see",
"What the adapters may see"
],
[
"training",
"Training"
],
[
"kept",
"Kept"
]
]
},
{
"file": "01_what_a_frozen_clip_sees.html",
"title": "1. What does a frozen CLIP see?",
"group": "Lessons",
"parts": [
[
"an-image-becomes-patches",
"An image becomes patches"
],
[
"patches-become-tokens",
"Patches become tokens"
],
[
"blocks-mix-the-tokens",
"Blocks mix the tokens"
],
[
"words-for-what-it-sees",
"Words for what it sees"
],
[
"from-probabilities-to-a-map-and-a-score",
"From probabilities to a map and a score"
],
[
"how-good-is-it",
"How good is it?"
],
[
"turn-the-threshold",
"Turn the threshold"
],
[
"why-the-liver-fails-first-look",
"Why the liver fails: first look"
],
[
"why-the-liver-fails-an-experiment",
"Why the liver fails: an experiment"
],
[
"what-you-learned",
"What you learned"
],
[
"read-on",
"Read on"
]
]
},
{
"file": "02_talking_to_it.html",
"title": "2. Talking to it",
"group": "Lessons",
"parts": [
[
"states-and-templates",
"States and templates"
],
[
"sentences-become-two-text-features",
"Sentences become two text features"
],
[
"what-each-part-does-to-auroc",
"What each part does to AUROC"
],
[
"wordings-from-outside",
"Wordings from outside"
],
[
"does-the-organ-s-name-matter",
"Does the organ's name matter?"
],
[
"your-turn",
"Your turn"
],
[
"searching-for-words",
"Searching for words"
],
[
"what-you-learned",
"What you learned"
],
[
"read-on",
"Read on"
]
]
},
{
"file": "03_adapters.html",
"title": "3. Adapters",
"group": "Lessons",
"parts": [
[
"the-residual-bottleneck",
"The residual bottleneck"
],
[
"how-little-learns",
"How little learns"
],
[
"what-they-learn-from",
"What they learn from"
],
[
"where-the-gradient-flows",
"Where the gradient flows"
],
[
"watching-it-learn",
"Watching it learn"
],
[
"what-the-residual-connection-is-for",
"What the residual connection is for"
],
[
"what-you-learned",
"What you learned"
],
[
"read-on",
"Read on"
]
]
},
{
"file": "04_few_shots_and_memory.html",
"title": "4. Few shots and memory",
"group": "Lessons",
"parts": [
[
"one-picture-eleven-views",
"One picture, eleven views"
],
[
"training",
"Training"
],
[
"the-memory-bank",
"The memory bank"
],
[
"two-branches-one-map",
"Two branches, one map"
],
[
"which-eight-pictures",
"Which eight pictures?"
],
[
"what-you-learned",
"What you learned"
],
[
"read-on",
"Read on"
]
]
},
{
"file": "05_zero_shot_transfer.html",
"title": "5. Zero-shot transfer",
"group": "Lessons",
"parts": [
[
"leave-one-out",
"Leave one out"
],
[
"judging",
"Judging"
],
[
"who-teaches-whom",
"Who teaches whom?"
],
[
"where-it-fails-and-why",
"Where it fails, and why"
],
[
"a-trap-in-this-very-lesson",
"A trap in this very lesson"
],
[
"what-you-learned",
"What you learned"
],
[
"read-on",
"Read on"
]
]
},
{
"file": "06_how_to_fool_yourself.html",
"title": "6. How to fool yourself",
"group": "Lessons",
"parts": [
[
"1-a-small-test-set",
"1. A small test set"
],
[
"2-many-comparisons",
"2. Many comparisons"
],
[
"3-choosing-the-epoch-the-draw-the-seed",
"3. Choosing the epoch, the draw, the seed"
],
[
"4-a-score-that-depends-on-the-neighbours",
"4. A score that depends on the neighbours"
],
[
"5-a-threshold-from-the-test-set",
"5. A threshold from the test set"
],
[
"6-one-class-and-the-wrong-measure",
"6. One class, and the wrong measure"
],
[
"a-checklist",
"A checklist"
],
[
"what-you-learned",
"What you learned"
],
[
"read-on",
"Read on"
]
]
},
{
"file": "about.html",
"title": "How to read this, and limits",
"group": "About",
"parts": []
}
];
