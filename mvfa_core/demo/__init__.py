"""Made data for the demonstration: phantoms, and a backbone pretrained on generic pictures."""
