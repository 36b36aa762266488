"""Files in, clips out (paper section 3): split, filter, check sync, caption, pack, and a manifest that says why."""
