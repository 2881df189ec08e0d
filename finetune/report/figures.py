def write_figures(folder): return []
def write_batch_figure(path, images, titles, *, title): return path
