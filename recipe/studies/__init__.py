"""Many runs from one prefix: settings compared by paired seeds, and labels audited."""
