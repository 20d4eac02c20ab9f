"""The only place where everything meets: act, store, label, learn, serve, record, evaluate, launch."""
