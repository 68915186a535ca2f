"""The page at `/`: looks at one picture's boxes and their three scores. Plain files, nothing from elsewhere."""
